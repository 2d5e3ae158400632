package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

var masks = regexp.MustCompile(`(?m)^Sig(?:Ign|Cgt):\t([0-9a-f]+)$`)

// A program that nohup has started outlives the terminal, and ends in order when it is told to.
func TestNohup(t *testing.T) {
	t.Parallel()
	e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := e.Start(r, nil, "nohup", "pgapply", "--to", "json")
	var ignores, catches uint64
	pgtest.Wait(t, 20*time.Second, "pgapply catches SIGTERM", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		if m := masks.FindAllSubmatch(b, -1); len(m) == 2 {
			ignores, _ = strconv.ParseUint(string(m[0][1]), 16, 64)
			catches, _ = strconv.ParseUint(string(m[1][1]), 16, 64)
		}
		return catches>>(syscall.SIGTERM-1)&1 == 1
	})
	if ignores>>(syscall.SIGHUP-1)&1 != 1 || catches>>(syscall.SIGHUP-1)&1 != 0 {
		t.Errorf("signals %x are ignored, %x are caught", ignores, catches)
	}
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	p.Wait(20 * time.Second)
}
