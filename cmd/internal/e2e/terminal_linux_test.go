package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// squeezed is what stands in lines, without blanks: a terminal breaks lines wherever they meet its
// edge.
func squeezed(lines ...string) string {
	return strings.Join(strings.Fields(strings.Join(lines, "")), "")
}

// One terminal, and everything that a migration shows on it: programs of a pipe, a sync in the
// background of a status that is watched, a cutover. Whatever the size, each message can be read at
// the end, nothing that was only for the moment is left, and the last words say what to do next.
func TestTerminalLoad_H9(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{40, 24}, {80, 24}, {120, 30}, {200, 50}} {
		t.Run(fmt.Sprint(size[0]), func(t *testing.T) {
			if size[0] != 80 { // the narrowest that people have, and the widest
				pgtest.Long(t)
			}
			t.Parallel()
			terminalLoad(t, size[0], size[1])
		})
	}
}

func terminalLoad(t *testing.T, columns, rows int) {
	source, target := pgtest.Pair(t)
	slot := "ter_" + source.Name
	for i := range 40 {
		source.Exec(fmt.Sprintf("CREATE TABLE a_table_with_a_name_that_is_rather_long_%02d (a int PRIMARY KEY, b text)", i))
	}
	source.Exec("CREATE TABLE big (a int PRIMARY KEY, b text)",
		"INSERT INTO big SELECT g, repeat('x', 1000) FROM generate_series(1, 3000) g")
	e := pgtest.NewEnv(t, source, target)
	e.Vars = []string{"TZ=Asia/Tokyo"}
	var x *pgtest.Terminal
	start := func(script string, args ...string) *pgtest.Process {
		x = pgtest.OpenTerminal(t, columns, rows)
		return x.Start(e, script, append([]string{slot}, args...)...)
	}
	shows := func(parts ...string) bool {
		all := squeezed(x.Screen()...)
		for _, p := range parts {
			if !strings.Contains(all, squeezed(p)) {
				return false
			}
		}
		return true
	}
	wait := func(what string, condition func() bool) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Logf("%s:\n%s", what, strings.Join(x.All(), "\n"))
			}
		}()
		pgtest.Wait(t, soon, what, condition)
	}
	// left checks what can be read at the end.
	left := func(what, last string, parts ...string) {
		t.Helper()
		wait(what, func() bool { return strings.HasSuffix(squeezed(x.All()...), squeezed(last)) })
		all := squeezed(x.All()...)
		for _, p := range parts {
			if !strings.Contains(all, squeezed(p)) {
				t.Errorf("%s: it does not say %q:\n%s", what, p, strings.Join(x.All(), "\n"))
			}
		}
		for _, bar := range []string{"[=", "[>", "% of", "--]"} {
			if strings.Contains(all, squeezed(bar)) {
				t.Errorf("%s: something is left of bars:\n%s", what, strings.Join(x.All(), "\n"))
			}
		}
	}

	// A load, in which another program of the pipe has something to say, is interrupted.
	// The shell has a trap, and starts nothing behind the message: else it might forget the signal.
	p := start(`pgextract --slot "$1" | { trap 'exit 1' INT; exec 9<> <(:); head -c 500000; echo "filter: a message of a program that is not ours" >&2; until read -r -t 0.2 -u 9; do :; done; } | pgapply`)
	wait("bars, and a message", func() bool {
		return shows("filter: a message of a program that is not ours", "public.big", "% of 41 tables")
	})
	// big returns the state, and how many rows of the large table the status counts.
	big := func() (state string, rows int) {
		t.Helper()
		var s struct {
			State  string
			Tables []struct {
				Table string
				Rows  int
			}
		}
		if err := json.Unmarshal(e.Must(nil, "pgcutover", "status", "--json", "--slot", slot), &s); err != nil {
			t.Fatal(err)
		}
		for _, x := range s.Tables {
			if x.Table == "big" {
				rows = x.Rows
			}
		}
		return s.State, rows
	}
	if columns == 80 {
		pgtest.Wait(t, soon, "the rows that are being copied", func() bool {
			state, rows := big()
			return rows > 0 && state == "loading"
		})
	}
	x.Type("\x03")
	p.Wait(soon)
	goOn := "To continue, with the same options as before: pgextract --slot " + slot + " --resume | pgapply"
	left("interrupted", goOn, "pgextract: source ", "pgapply: target ",
		"filter: a message of a program that is not ours", "tables and 0 rows are on the target")

	// A status fits, and says that nobody loads.
	p = start(`pgcutover status --slot "$1"`)
	p.Wait(soon)
	wait("a status", func() bool {
		return shows(": interrupted, nobody has loaded since 20", " JST",
			"next pgextract --slot "+slot+" --resume | pgapply", " more; all of them")
	})
	if n := len(x.All()); n >= rows {
		t.Errorf("%d lines on a terminal of %d:\n%s", n, rows, strings.Join(x.All(), "\n"))
	}
	if state, rows := big(); rows != 0 || state != "interrupted" {
		t.Errorf("%s: the status counts %d rows that were rolled back", state, rows)
	}
	for _, field := range []string{"state", "load"} {
		if got := strings.TrimSpace(string(e.Must(nil, "pgcutover", "status", "--slot", slot, "--get", field))); got != "interrupted" {
			t.Errorf("%s is %s", field, got)
		}
	}

	p = start(`pgextract --slot "$1" --resume | pgapply`)
	if status := p.Wait(soon); status != 0 {
		t.Fatalf("status %d:\n%s", status, strings.Join(x.All(), "\n"))
	}
	left("loaded", "pgapply: next: scripts/sync "+slot, "pgextract: extracted ", "pgapply: loaded ")

	// A status is watched while sync, in the background, has something to say.
	p = start(`set -m; scripts/sync "$1" & pgcutover status --slot "$1" --watch --every 100ms; echo "watched"; kill %1; wait`)
	syncing := func() bool { return shows("slot "+slot+" of database "+source.Name+": syncing", " more; all of them") }
	wait("the status, watched", syncing)
	target.Exec("SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
	wait("sync starts again", func() bool { return strings.Contains(squeezed(x.All()...), "startingagain") })
	source.Exec("INSERT INTO big VALUES (0, 'last')")
	applied := "1 in 1 transaction"
	if source.Major < 15 { // which sends empty transactions, too
		applied = "1 in "
	}
	wait("it is applied", func() bool { return syncing() && shows("last error", applied) })
	x.Resize(columns-7, rows-3)
	wait("it is drawn again", syncing)
	x.Resize(columns, rows)
	x.Type("\x03")
	p.Wait(soon)
	wait("sync has ended", func() bool {
		return strings.Contains(squeezed(x.All()...),
			squeezed("watched", "sync: stopped; the slot retains further changes on the source. To continue: scripts/sync "+slot))
	}) // after that, bash says that it has
	left("watched", "",
		"sync: following slot "+slot, "pgdecode: source ", "pgapply: target ", "terminat",
		"sync: starting again in 1 s", "slot "+slot+" of database "+source.Name, "watched")

	p = start(`scripts/sync "$1" & scripts/cutover "$1" --yes; wait`)
	if status := p.Wait(soon); status != 0 {
		t.Errorf("status %d", status)
	}
	wait("done", func() bool { return strings.Contains(squeezed(x.All()...), squeezed("pgcutover cleanup --slot "+slot)) })
	left("cut over", "", "pgcutover cleanup --slot "+slot, "cutover: waiting for the target to catch up",
		"fence: ", "drain: ", "open: ", "cutover: verified: all tables are equal", "finish: ")
	// The rows were compared when the target was open, and not in no time.
	if target.Query("SELECT v.started_at > o.started_at AND v.started_at < v.finished_at FROM pgsluice.cutover v, pgsluice.cutover o WHERE v.step = 'verify' AND o.step = 'open'") != "t" {
		t.Error("the verification is said to have begun at another time")
	}
	p = start(`pgcutover status --slot "$1"`)
	p.Wait(soon)
	wait("what is left to do", func() bool {
		return strings.Contains(squeezed(x.All()...), squeezed("next pgcutover cleanup --slot "+slot))
	})
}
