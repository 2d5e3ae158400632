package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A step of the cutover that waits for another session's lock names that session within 3 seconds.
// It gives up after --timeout, and the source is given back. The same command again ends complete.
func TestOpenNamesBlocker_F12(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE w (a int PRIMARY KEY)", "CREATE TABLE fired (a int)", "CREATE SEQUENCE s",
		"CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired VALUES (NEW.a); RETURN NEW; END'")
	for _, name := range []string{"b", "c"} { // they wait for open, since they act in a replica, too
		source.Exec("CREATE TABLE "+name+" (a int PRIMARY KEY)", "CREATE TRIGGER fire BEFORE INSERT ON "+name+" FOR EACH ROW EXECUTE PROCEDURE fire()",
			"ALTER TABLE "+name+" ENABLE ALWAYS TRIGGER fire")
	}
	e, slot := scriptPair(t, source, target)
	// The lock is taken when the step is about to begin, and it waits for that.
	gate := filepath.Join(t.TempDir(), "begun")
	e = pgtest.Wrapped(t, e, `if [[ -n ${STEP:-} && $1 == lock ]]; then
	set -- "$@" --timeout 2s
elif [[ -n ${STEP:-} && $1 == "$STEP" && " $* " != *" --check "* ]]; then
	: >'`+gate+`'
	while [[ -e '`+gate+`' ]]; do sleep 0.02; done
fi`)
	sync := e.Start(nil, nil, "bash", script("sync"), slot)
	for i, x := range []struct {
		step string
		on   *pgtest.DB
		lock string
	}{
		{"fence", source, "ALTER DATABASE " + source.Name + " SET work_mem = '5MB'"},
		{"open", target, "LOCK TABLE c IN ROW EXCLUSIVE MODE"},
		{"open", target, "ALTER SEQUENCE s CACHE 5"},
	} {
		if x.lock == "ALTER SEQUENCE s CACHE 5" {
			source.Exec("SELECT nextval('s')")
		}
		held := *e
		held.Vars = append(slices.Clone(e.Vars), "STEP="+x.step)
		p := held.Start(nil, nil, "bash", script("cutover"), slot, "--yes", "--no-reverse")
		pgtest.Wait(t, soon, "the step begins: "+x.step, func() bool { _, err := os.Stat(gate); return err == nil })
		c, err := pgx.Connect(pgtest.Context(t), x.on.URI+"&application_name=nightly")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(pgtest.Context(t), "SET default_transaction_read_only = off; BEGIN; "+x.lock); err != nil {
			t.Fatal(err)
		}
		pid := c.PgConn().PID()
		who := fmt.Sprintf("process %d (role postgres, application nightly", pid)
		if err := os.Remove(gate); err != nil {
			t.Fatal(err)
		}
		pgtest.Wait(t, soon, "the step waits", func() bool {
			return x.on.Query(fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE %d = ANY (pg_blocking_pids(pid))", pid)) != "0"
		})
		began := time.Now()
		pgtest.Wait(t, 30*time.Second, "the session is named", func() bool { return strings.Contains(p.Errors(), who) })
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s: named after %v: %s", x.step, took, p.Errors())
		}
		if status := p.Wait(soon); status != 75 || !strings.Contains(p.Errors(), "pg_terminate_backend") {
			t.Errorf("%s: status %d: %s", x.step, status, p.Errors())
		}
		_ = c.Close(pgtest.Context(t))
		source.Exec(fmt.Sprintf("INSERT INTO b VALUES (%d)", i), fmt.Sprintf("INSERT INTO c VALUES (%d)", i)) // given back
	}
	want := source.Query("SELECT count(*) FROM fired")
	if status, _, errs := e.Run(nil, "bash", script("cutover"), slot, "--yes", "--no-reverse"); status != 0 {
		t.Fatalf("the same again: status %d: %s", status, errs)
	}
	sync.Wait(soon)
	if got := target.Query("SELECT count(*) FROM fired"); got != want {
		t.Errorf("%s rows in fired, not %s: the trigger has fired for applied rows", got, want)
	}
	pgtest.Equal(t, source, target)
	if target.Exec("INSERT INTO c VALUES (77)"); target.Query("SELECT count(*) FROM fired WHERE a = 77") != "1" {
		t.Error("the trigger does not fire")
	}
}
