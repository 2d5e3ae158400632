package format_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// The example in section 8 of SPEC.md must be what Writer makes, and what Reader reads.
func TestSpecExample(t *testing.T) {
	want := []format.Record{
		&format.Header{StreamKind: format.Changes, SystemID: "7301", Database: "shop", Slot: "mig"},
		&format.Relation{ID: 1, Schema: "public", Name: "t", Columns: []format.Column{{Name: "a", TypeMod: -1}}},
		&format.Begin{XID: 700, CommitLSN: 0x16_b374d848, Time: 1700000000000000},
		&format.Insert{Relation: 1, New: row("x")},
		&format.Commit{CommitLSN: 0x16_b374d848, EndLSN: 0x16_b374d878, Time: 1700000000000000},
		&format.End{Reason: format.Complete, Frames: 5, Transactions: 1, Changes: 1, LSN: 0x16_b374d878},
	}
	checkExample(t, "8", want)
}

// So must the load in section 11. (That pgapply applies it is tested there.)
func TestSpecLoad(t *testing.T) {
	checkExample(t, "11", []format.Record{
		&format.Header{StreamKind: format.Load},
		&format.DDL{ID: 1, Section: format.PreData, Type: "TABLE", Schema: "public", Name: "t", Table: "t",
			SQL: "CREATE TABLE public.t (a integer, b text);"},
		&format.Relation{ID: 1, Schema: "public", Name: "t", Columns: []format.Column{{Name: "a", TypeMod: -1}, {Name: "b", TypeMod: -1}}},
		&format.CopyBegin{Part: 1, Relation: 1, Format: format.CopyText, Index: 1, Of: 1},
		&format.CopyData{Part: 1, Rows: 2, Data: []byte("1\tone\n2\t\\N\n")},
		&format.CopyEnd{Part: 1, Rows: 2, Bytes: 11},
		&format.End{Reason: format.Complete, Frames: 6, Rows: 2, Bytes: 11},
	})
}

func checkExample(t *testing.T, section string, want []format.Record) {
	t.Helper()
	if text := annotate(write(t, want...)); specExample(t, section) != text {
		t.Errorf("section %s of SPEC.md should be\n%s", section, text)
	}
	b, err := parseHex(specExample(t, section))
	must(t, err)
	got, err := readBytes(b)
	must(t, err)
	same(t, got, want)
}

// specExample returns the block of a section.
func specExample(t *testing.T, number string) string {
	spec, err := os.ReadFile("SPEC.md")
	must(t, err)
	_, section, ok := strings.Cut(string(spec), "\n## "+number+". ")
	_, block, ok2 := strings.Cut(section, "```\n")
	block, _, ok3 := strings.Cut(block, "```\n")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("SPEC.md has no example in section %s", number)
	}
	return block
}

// Every kind must stand in SPEC.md with its number.
func TestSpecNamesKinds(t *testing.T) {
	b, err := os.ReadFile("SPEC.md")
	must(t, err)
	spec := string(b)
	for name, rec := range newRecord {
		if name == "unknown" {
			continue
		}
		number := strconv.Itoa(int(rec.Kind()))
		if !strings.Contains(spec, name+" ("+number+")") &&
			!strings.Contains(spec, "| "+name+" | "+number+" |") ||
			!strings.Contains(spec, "| "+number+" | "+name+" |") {
			t.Errorf("SPEC.md does not give %s the number %s", name, number)
		}
	}
}
