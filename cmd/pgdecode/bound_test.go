package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// claim is what pgapply would have printed for a target of the migration with this token.
func claim(lsn format.LSN, id string) string {
	return fmt.Sprintf("applied\t%v\t2026-01-01T00:00:00.000000Z\t%s\n", lsn, id)
}

// What a file has from an earlier time acknowledges nothing and ends nothing.
func TestStaleConfirmFile_I6(t *testing.T) {
	source := database(t, pgtest.Source(t))
	source.Exec("COMMENT ON PUBLICATION " + source.Name + " IS 'of the DBA\n  pgsluice slot=" + source.Name +
		"x token=theirs target=theirs\npgsluice slot=" + source.Name + " token=ours'")
	began := confirmed(source)
	path := filepath.Join(t.TempDir(), "applied")
	stale := "ended\nended\told.t\nended\t.t\napplied\tFF/0\t2020-01-01T00:00:00Z\n" +
		claim(0xff_0000_0000, "old.t") + claim(0xff_0000_0000, "ours.t") + claim(0xff_0000_0000, ".t")
	if err := os.WriteFile(path, []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	d := decode(t, source, "--confirm-from", path)
	insert(source, 1, 1)
	d.waitRows(1)
	var beats int
	more := func() {
		t.Helper()
		d.look(func() { beats = d.beats })
		d.wait("two progress records after that", func() bool { return d.beats >= beats+2 })
		if now := confirmed(source); now != began {
			t.Fatalf("the slot went from %v to %v", began, now)
		}
	}
	more()
	// While it is at work, too: another migration's, nobody's, and what was never written.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var at format.LSN
	d.look(func() { at = d.at })
	_, _ = f.WriteString("ended\nended\told.t\n" +
		claim(at, "old.t") + claim(at, ".t") + claim(at, "ours.") + claim(0xff_0000_0000,
		"ours.t") + fmt.Sprintf("applied\t%v\tx\n", at))
	more()
	if got := source.Query("SELECT obj_description(oid) FROM pg_publication"); strings.HasSuffix(got, "target=t") {
		t.Errorf("the slot was given away: %s", got)
	}
	_, _ = f.WriteString(claim(at, "ours.t"))
	pgtest.Wait(t, patience, "the slot is acknowledged", func() bool { return confirmed(source) == at })
	want := "of the DBA\n  pgsluice slot=" + source.Name + "x token=theirs target=theirs\npgsluice slot=" +
		source.Name + " token=ours target=t"
	if got := source.Query("SELECT obj_description(oid) FROM pg_publication"); got != want {
		t.Errorf("the comment is\n%s\nnot\n%s", got, want)
	}
	if d.headers[0].Token != "ours" {
		t.Errorf("the header has the token %q", d.headers[0].Token)
	}
	_, _ = f.WriteString("ended\tours.t\n")
	d.ended(format.Complete, 0)
}

// A slot is acknowledged for the target whose line came first; where the role may not write that
// down, as long as the process lives.
func TestOneTarget_I7(t *testing.T) {
	for _, owner := range []bool{true, false} {
		t.Run(fmt.Sprintf("owner %v", owner), func(t *testing.T) {
			source := database(t, pgtest.Source(t))
			role := "reader_" + source.Name
			source.Exec("CREATE ROLE " + role + " LOGIN REPLICATION")
			t.Cleanup(func() { _, _ = pgtest.Source(t).Database(t, "").Try("DROP ROLE " + role) })
			uri := source.URI
			if !owner {
				uri = source.As(role, "")
			}
			path := filepath.Join(t.TempDir(), "applied")
			start := func() *decoding {
				_ = os.WriteFile(path, nil, 0o600)
				return decode(t, source, "--source", uri, "--confirm-from", path)
			}
			say := func(text string) {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = f.WriteString(text)
				_ = f.Close()
			}
			d := start()
			insert(source, 1, 1)
			d.waitRows(1)
			var at format.LSN
			d.look(func() { at = d.at })
			say(claim(at, ".one"))
			pgtest.Wait(t, patience, "the slot is acknowledged", func() bool { return confirmed(source) == at })
			insert(source, 2, 2)
			d.waitRows(2)
			before := at
			d.look(func() { at = d.at })
			say(claim(at, ".two"))
			if status := d.Wait(patience); status != 78 || !strings.Contains(d.Errors(), "another target") {
				t.Errorf("status %d: %s", status, d.Errors())
			}
			if now := confirmed(source); now >= at {
				t.Errorf("the slot went from %v to %v for another target", before, now)
			}
			if !owner {
				return
			}
			// Another process knows, too; and the statement that it prints gives the slot away.
			d = start()
			d.waitRows(1)
			d.look(func() { at = d.at })
			say(claim(at, ".two"))
			if status := d.Wait(patience); status != 78 {
				t.Errorf("status %d: %s", status, d.Errors())
			}
			_, give, ok := strings.Cut(d.Errors(), "on the source: ")
			if !ok {
				t.Fatal(d.Errors())
			}
			give, _, _ = strings.Cut(give, "\n")
			source.Exec(give)
			d = start()
			d.waitRows(1)
			d.look(func() { at = d.at })
			say(claim(at, ".two"))
			pgtest.Wait(t, patience, "the slot is acknowledged for the other", func() bool { return confirmed(source) == at })
		})
	}
}
