package main_test

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// A message that passes in pieces may break off: because the source goes away, or because it falls
// silent while pgdecode is told to stop. What was written of it is taken back by a header, and all
// of it comes again.
func TestMessageBreaksOff_H11(t *testing.T) {
	pgtest.Slow(t)
	for _, how := range []string{"killed", "silent"} {
		t.Run(how, func(t *testing.T) {
			server := pgtest.Start(t, 0, "logical_decoding_work_mem=64MB")
			source := database(t, server)
			d := decode(t, source)
			insert(source, 1, 1)
			d.waitRows(1)
			d.paused.Lock()
			source.Exec("BEGIN; INSERT INTO t VALUES (2, 'before'); SELECT pg_logical_emit_message(true, 'x', repeat('y', 30000000)); INSERT INTO t VALUES (3, 'after'); COMMIT")
			pgtest.Wait(t, patience, "the server is blocked", func() bool {
				return source.Query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event = 'WalSenderWriteData'") == "1"
			})
			if how == "killed" {
				server.Kill()
				d.paused.Unlock()
				d.wait("the loss", func() bool { return d.lines("trying again") == 1 })
				server.Restart(t)
				d.waitRows(3)
				if err := d.Process.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				d.ended(format.Stopped, 143)
				d.complete(3)
				return
			}
			pid, err := strconv.Atoi(walsender(source))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err = d.Process.Process.Signal(syscall.SIGINT)
			d.paused.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			d.ended(format.Stopped, 130)
			t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			d.complete(1)
			again := decode(t, source, "--until", "now")
			again.ended(format.Complete, 0)
			again.look(func() {
				if again.rows["2"] != 1 || again.rows["3"] != 1 {
					t.Errorf("rows: %v", again.rows)
				}
			})
		})
	}
}
