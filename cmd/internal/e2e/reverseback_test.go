package e2e

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// exchanged returns the environment for a step of the way back by hand.
func (w *wayBack) exchanged() *pgtest.Env {
	e := *w.Env
	e.Source, e.Target = w.Target, w.Source
	return &e
}

// escape writes a row behind the fence of a side.
func (w *wayBack) escape(d *pgtest.DB, mark string) {
	d.Exec("BEGIN READ WRITE; INSERT INTO app.line VALUES ('" + mark + "'); COMMIT")
}

// refused expects that a cutover back ends with a status and leaves the new primary the only one.
func (w *wayBack) refused(status fault.Status, says string, args ...string) string {
	w.t.Helper()
	got, _, errs := w.Run(nil, "bash", append([]string{script("cutover"), w.slot, "--yes", "--verify", "no", "--back"}, args...)...)
	if got != int(status) || !strings.Contains(errs, says) {
		w.t.Errorf("cutover --back %v: status %d\n%s", args, got, errs)
	}
	if open := strings.TrimSpace(string(w.Must(nil, "pgcutover", "status", "--slot", w.slot, "--get", "target_open"))); open != "true" {
		w.t.Errorf("after cutover --back %v: target_open is %s", args, open)
	}
	if !writable(&pgtest.DB{URI: w.target.As("app_owner", "")}) || writable(&pgtest.DB{URI: w.source.As("app_owner", "")}) {
		w.t.Errorf("after cutover --back %v, not only the new primary takes writes", args)
	}
	return errs
}

// A cutover back that is given up loses nothing of what is known of the old primary. It is refused
// while somebody has written there, and afterwards the primary that was left is watched.
func TestBackGivenUp_F(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	w := newWayBack(t, pgtest.Source(t).Major, pgtest.Target(t).Major)
	for _, d := range []*pgtest.DB{w.source, w.target} {
		d.Exec("ALTER ROLE app_owner LOGIN")
	}
	watch := func(e *pgtest.Env, slot, found string) {
		t.Helper()
		want := 0
		if found != "" {
			want = int(fault.Failed)
		}
		if status, out, errs := e.Run(nil, "pgcutover", "watch", "--slot", slot); status != want || found != "" && string(out) != found {
			t.Errorf("watch --slot %s: status %d, %s%s", slot, status, out, errs)
		}
	}
	w.cutover("--verify", "no")
	sync := w.sync("--reverse")
	w.write(w.target, "before")
	w.equal("before")

	w.refused(fault.Failed, "nothing was closed", "--pause", "false", "--resume", "true")
	watch(w.Env, w.slot, "")
	// The old primary's fence cannot be lifted: that fails at the very end.
	locked, err := pgx.Connect(t.Context(), w.source.URI)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := locked.Exec(t.Context(), "BEGIN READ WRITE; COMMENT ON DATABASE "+w.source.Name+" IS ''"); err != nil {
		t.Fatal(err)
	}
	w.refused(fault.TryAgain, "reopening the source")
	_ = locked.Close(t.Context())
	watch(w.Env, w.slot, "")
	w.write(w.target, "between")
	w.equal("between")

	w.escape(w.source, "lost?")
	w.refused(fault.Config, "pgcutover watch --slot mig --accept ")
	watch(w.Env, w.slot, "written\tapp.line: 1 inserted\n")
	w.source.Exec("BEGIN READ WRITE; DELETE FROM app.line WHERE line = 'lost?'; COMMIT")
	errs := w.refused(fault.Config, "pgcutover watch --slot mig --accept ", "--no-reverse")
	lsn := errs[strings.LastIndex(errs, "--accept ")+len("--accept "):]
	w.Must(nil, "pgcutover", "watch", "--slot", w.slot, "--accept", strings.Fields(lsn)[0])

	// Killed with the new primary closed, and run again.
	killed := pgtest.Wrapped(t, w.Env, `if [[ $1 == fence && " $* " != *" --check "* ]]; then run "$@"; kill -9 $PPID; exit 1; fi`)
	killed.Run(nil, "bash", script("cutover"), w.slot, "--yes", "--back")
	w.cutover("--back")
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync --reverse: status %d\n%s", status, sync.Errors())
	}
	sync = w.sync()
	w.write(w.source, "back")
	w.equal("back")
	watch(w.exchanged(), w.slot+"_back", "")
	w.escape(w.target, "lost?")
	watch(w.exchanged(), w.slot+"_back", "written\tapp.line: 1 inserted\n")
	get := func(e *pgtest.Env, slot, field string) string {
		return strings.TrimSpace(string(e.Must(nil, "pgcutover", "status", "--slot", slot, "--get", field)))
	}
	if n := get(w.Env, w.slot, "left_slot.retained_wal_bytes"); n == "0" {
		t.Error("status does not tell how much WAL the primary that was left keeps")
	}
	// The same in the other direction. Nobody reads the slot without a way back.
	if status, _, errs := w.Run(nil, "bash", script("cutover"), w.slot, "--yes", "--verify", "no", "--no-reverse"); status != int(fault.Config) || !strings.Contains(errs, "watch --slot mig_back --accept") {
		t.Errorf("cutover to a primary that was written to: status %d\n%s", status, errs)
	}
	w.exchanged().Must(nil, "pgcutover", "watch", "--slot", w.slot+"_back", "--accept", get(w.exchanged(), w.slot+"_back", "written.lsn"))
	w.cutover("--verify", "no", "--no-reverse")
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync: status %d\n%s", status, sync.Errors())
	}
	if n := w.target.Query("SELECT count(*) FROM pg_replication_slots"); n != "0" {
		t.Errorf("%s slots are left on the target", n)
	}
}

// What a cutover that was killed has made for the way back does not stay if the next one is to make
// none: its slot would retain WAL for good.
func TestNoReverseAfterKill_F(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Start(t, pgtest.Source(t).Major).Database(t, ""), pgtest.Start(t, pgtest.Target(t).Major).Database(t, "")
	e, slot := scriptPair(t, source, target)
	sync := e.Start(nil, nil, "bash", script("sync"), slot)
	killed := pgtest.Wrapped(t, e, `if [[ $1 == reverse && " $* " != *" --check "* ]]; then run "$@"; kill -9 $PPID; exit 1; fi`)
	if status, _, errs := killed.Run(nil, "bash", script("cutover"), slot, "--yes"); status == 0 {
		t.Fatalf("the cutover was not killed: %s", errs)
	}
	const slots = "SELECT count(*) FROM pg_replication_slots"
	if n := target.Query(slots); n != "1" {
		t.Fatalf("%s slots on the target", n)
	}
	e.Must(nil, "bash", script("cutover"), slot, "--yes", "--verify", "no", "--no-reverse")
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync: status %d\n%s", status, sync.Errors())
	}
	if n := target.Query(slots); n != "0" {
		t.Errorf("%s slots are left on the target", n)
	}
	if status, _, errs := e.Run(nil, "bash", script("sync"), slot, "--reverse"); status == 0 || !strings.Contains(errs, slot+"_back") {
		t.Errorf("sync --reverse: status %d\n%s", status, errs)
	}
	e.Must(nil, "pgcutover", "cleanup", "--slot", slot)
	for _, d := range []*pgtest.DB{source, target} {
		if left := d.Query("SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice') + (SELECT count(*) FROM pg_publication)"); left != "0" {
			t.Errorf("after cleanup, %s has %s schemas and publications of ours", d.Name, left)
		}
	}
}
