package huge_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/huge"
)

// resident returns how much memory this process has, in kB.
func resident(t *testing.T) (kB int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatal(err)
	}
	return kB
}

// Memory takes nothing before it is used, and nothing after it was given back.
func TestAlloc(t *testing.T) {
	before := resident(t)
	b := huge.Alloc(1 << 30)
	if len(b) != 1<<30 || b[0] != 0 || b[1<<30-1] != 0 {
		t.Fatalf("%d bytes", len(b))
	}
	if n := resident(t) - before; n > 8<<10 {
		t.Errorf("a gigabyte that nobody uses takes %d kB", n)
	}
	for i := 0; i < 64<<20; i += 1 << 10 {
		b[i] = 'x'
	}
	if n := resident(t) - before; n < 64<<10 {
		t.Errorf("64 MB take %d kB", n)
	}
	huge.Free(b)
	huge.Free(nil)
	if n := resident(t) - before; n > 8<<10 {
		t.Errorf("%d kB are kept", n)
	}
}
