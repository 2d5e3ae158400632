package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A transaction of a million rows passes without being held in memory, however the server sends it.
func TestHugeTransaction(t *testing.T) {
	t.Parallel()
	const rows, most = 1_000_000, 100 << 10 // kB
	source, target := pgtest.Pair(t)
	slots := []string{source.Name, source.Name + "_streamed"}
	source.Exec("CREATE TABLE huge (id int PRIMARY KEY, a text, b int)")
	for _, slot := range slots {
		source.Exec("CREATE PUBLICATION "+slot+" FOR TABLE huge", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	}
	source.Exec(fmt.Sprintf("INSERT INTO huge SELECT i, md5(i::text), i FROM generate_series(1, %d) i", rows))
	for n, how := range []struct{ name, workMem, streamed string }{
		{"sent at its commit", "2GB", "f"},
		{"sent while in progress", "64kB", "t"},
	} {
		t.Run(how.name, func(t *testing.T) {
			target.Exec("DROP SCHEMA IF EXISTS pgsluice CASCADE", "DROP TABLE IF EXISTS huge", "CREATE TABLE huge (id int PRIMARY KEY, a text, b int)")
			env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: source.URI, Target: target.URI}
			if source.Major >= 14 { // older ones do not know how to send what is in progress
				env.Source += "&logical_decoding_work_mem=" + how.workMem
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			decode := env.Start(nil, w, "pgdecode", "--slot", slots[n], "--until", "now")
			apply := env.Start(r, nil, "pgapply")
			_, _ = r.Close(), w.Close()
			peaks := map[string]int{}
			pgtest.Wait(t, 3*time.Minute, "the transaction has passed", func() bool {
				for name, p := range map[string]*pgtest.Process{"pgdecode": decode, "pgapply": apply} {
					peaks[name] = max(peaks[name], peak(p.Process.Pid))
				}
				return !decode.Running() && !apply.Running()
			})
			for _, p := range []*pgtest.Process{decode, apply} {
				if status := p.Wait(time.Minute); status != 0 {
					t.Fatalf("%s: exit status %d\n%s", p.Path, status, p.Errors())
				}
			}
			t.Logf("%v, in kB: %v\n%s", time.Since(began).Round(time.Millisecond), peaks, decode.Errors())
			for name, kB := range peaks {
				if kB == 0 || kB > most {
					t.Errorf("%s has taken %d kB of memory, more than %d", name, kB, most)
				}
			}
			pgtest.Equal(t, source, target)
			if source.Major >= 14 {
				pgtest.Wait(t, 10*time.Second, "the server says that the transaction was "+how.name, func() bool {
					return source.Query("SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = '"+slots[n]+"'") == how.streamed
				})
			}
		})
	}
}

// peak returns the most memory that a process has had, in kB; 0 if it has ended.
func peak(pid int) (kB int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if _, rest, ok := strings.Cut(string(b), "VmHWM:"); ok {
		_, _ = fmt.Sscan(rest, &kB)
	}
	return kB
}
