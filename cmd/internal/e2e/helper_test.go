package e2e

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // they wait more than they work
	pgtest.Main(m)
}

// played returns an environment in dir, in which a bash script plays pgcutover.
func played(t *testing.T, dir, text string) *pgtest.Env {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "pgcutover"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return &pgtest.Env{T: t, Dir: dir}
}

// random returns a source of random numbers. Its seed is logged; PGSLUICE_TEST_SEED sets it.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PGSLUICE_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("PGSLUICE_TEST_SEED: %v", err)
		}
	}
	t.Logf("PGSLUICE_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// sorted returns lines in the order of their bytes, each ended by a newline.
func sorted(lines []string) string {
	lines = slices.Sorted(slices.Values(lines))
	return strings.Join(lines, "\n") + "\n"
}

// unasked returns what programs wrote to standard error, without the lines that name source and
// target, and without the lines that sync prints at its start and when a signal stops it.
func unasked(errs string) string {
	var b strings.Builder
	for line := range strings.Lines(errs) {
		if _, text, _ := strings.Cut(line, ": "); !strings.HasPrefix(text, "source  ") && !strings.HasPrefix(text, "target  ") &&
			!strings.HasPrefix(line, "sync: following ") && !strings.HasPrefix(line, "sync: stopped; ") {
			b.WriteString(line)
		}
	}
	return b.String()
}
