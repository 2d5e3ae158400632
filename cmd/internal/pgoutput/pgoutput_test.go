package pgoutput_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgoutput"
	"github.com/pgsluice/pgsluice/format"
)

var (
	accounts = relation(100, "public", "accounts", 'd', "*id", "name", "note")
	full     = relation(200, "public", "full", 'f', "*a", "*b")
	empty    = relation(300, "public", "empty", 'f')
	skipped  = relation(400, "pgsluice", "streams", 'd', "*id")
)

// samples has every kind of message, in an order that a server could send, with the record that it
// becomes.
var samples = []struct {
	name string
	msg  []byte
	want string
}{
	{"origin", pack('O', uint64(5), "pgsluice_mig"), "-"},
	{"type", pack('Y', uint32(17000), "public", "mood"), "-"},
	{"begin", pack('B', uint64(0x100), at, uint32(700)), "begin 700 commit=0/100 at " + atText},
	{"relation", accounts, `relation 100 "public"."accounts" identity=d [id 25 key, name 25, note 25]`},
	{"relation with type modifier", pack('R', uint32(500), "s", "t", 'i', uint16(2), byte(1), "a",
		uint32(1043), uint32(14), byte(0), "b", uint32(23), uint32(0xffffffff)),
		`relation 500 "s"."t" identity=i [a 1043 (14) key, b 23]`},
	{"relation in pg_catalog", pack('R', uint32(501), "", "pg_x", 'n', uint16(0)), `relation 501 "pg_catalog"."pg_x" identity=n []`},
	{"relation with identity full", full, `relation 200 "public"."full" identity=f [a 25 key, b 25 key]`},
	{"relation without columns", empty, `relation 300 "public"."empty" identity=f []`},
	{"relation of a skipped schema", skipped, "-"},
	{"insert", pack('I', uint32(100), 'N', tuple("1", nil, "")), `insert 100 new=("1", null, "")`},
	{"insert in binary format", pack('I', uint32(100), 'N', tuple([]byte{0, 1}, []byte{}, "x")), `insert 100 new=(\x0001, \x, "x")`},
	{"insert without columns", pack('I', uint32(300), 'N', tuple()), "insert 300 new=()"},
	{"insert into a skipped relation", pack('I', uint32(400), 'N', tuple("1")), "-"},
	{"update without an old tuple", pack('U', uint32(100), 'N', tuple("1", "a", unchanged{})),
		`update 100 old=none new=("1", "a", unchanged)`},
	{"update with a key", pack('U', uint32(100), 'K', tuple("1", nil, nil), 'N', tuple("2", "a", "b")),
		`update 100 old=("1", null, null) new=("2", "a", "b")`},
	{"update with an old row", pack('U', uint32(200), 'O', tuple("1", ""), 'N', tuple("1", nil)),
		`update 200 old=("1", "") new=("1", null)`},
	{"update of a skipped relation", pack('U', uint32(400), 'N', tuple("1")), "-"},
	{"delete by key", pack('D', uint32(100), 'K', tuple("1", nil, nil)), `delete 100 old=("1", null, null)`},
	{"delete of a row", pack('D', uint32(200), 'O', tuple("1", nil)), `delete 200 old=("1", null)`},
	{"delete of a row without columns", pack('D', uint32(300), 'O', tuple()), `delete 300 old=()`},
	{"delete in a skipped relation", pack('D', uint32(400), 'K', tuple("1")), "-"},
	{"truncate", pack('T', uint32(1), byte(0), uint32(100)), "truncate [100] cascade=false restart=false"},
	{"truncate cascade", pack('T', uint32(2), byte(1), uint32(200), uint32(100)), "truncate [200 100] cascade=true restart=false"},
	{"truncate restart identity", pack('T', uint32(1), byte(2), uint32(100)), "truncate [100] cascade=false restart=true"},
	{"truncate with both", pack('T', uint32(1), byte(3), uint32(100)), "truncate [100] cascade=true restart=true"},
	{"truncate with a skipped relation", pack('T', uint32(3), byte(0), uint32(100), uint32(400), uint32(200)),
		"truncate [100 200] cascade=false restart=false"},
	{"truncate of skipped relations", pack('T', uint32(2), byte(0), uint32(400), uint32(400)), "-"},
	{"message", pack('M', byte(1), uint64(0x90), "pgsluice", uint32(3), []byte("a\x00b")),
		`message transactional=true lsn=0/90 "pgsluice" "a\x00b"`},
	{"message without content", pack('M', byte(1), uint64(0x90), "", uint32(0)), `message transactional=true lsn=0/90 "" ""`},
	{"commit", pack('C', byte(0), uint64(0x100), uint64(0x130), at), "commit commit=0/100 end=0/130 at " + atText},
	{"message outside of transactions", pack('M', byte(0), uint64(0x140), "p", uint32(1), []byte("x")),
		`message transactional=false lsn=0/140 "p" "x"`},

	{"first block", pack('S', uint32(800), byte(1)), "stream-start 800 first=true"},
	{"relation in a block", inBlock(800, relation(600, "public", "late", 'd', "*id")),
		`relation 600 "public"."late" identity=d [id 25 key]`},
	{"type in a block", inBlock(800, pack('Y', uint32(17000), "public", "mood")), "-"},
	{"origin in a block", pack('O', uint64(5), "pgsluice_mig"), "-"},
	{"insert in a block", inBlock(801, pack('I', uint32(600), 'N', tuple("1"))), `insert 600 xid=801 new=("1")`},
	{"update in a block", inBlock(802, pack('U', uint32(600), 'K', tuple("1"), 'N', tuple("2"))), `update 600 xid=802 old=("1") new=("2")`},
	{"delete in a block", inBlock(803, pack('D', uint32(600), 'K', tuple("1"))), `delete 600 xid=803 old=("1")`},
	{"truncate in a block", inBlock(804, pack('T', uint32(1), byte(0), uint32(600))), "truncate [600] xid=804 cascade=false restart=false"},
	{"message in a block", inBlock(805, pack('M', byte(1), uint64(0x150), "p", uint32(0))),
		`message xid=805 transactional=true lsn=0/150 "p" ""`},
	{"end of a block", pack('E'), "stream-stop"},
	{"abort of a subtransaction", pack('A', uint32(800), uint32(801)), "stream-abort 800 sub=801"},
	{"next block", pack('S', uint32(800), byte(0)), "stream-start 800 first=false"},
	{"end of the next block", pack('E'), "stream-stop"},
	{"abort with position and time", pack('A', uint32(800), uint32(802), uint64(0x160), at),
		"stream-abort 800 sub=802 lsn=0/160 at " + atText},
	{"commit of blocks", pack('c', uint32(800), byte(0), uint64(0x170), uint64(0x180), at),
		"stream-commit 800 commit=0/170 end=0/180 at " + atText},
	{"abort of blocks", pack('A', uint32(900), uint32(900)), "stream-abort 900 sub=900"},
	{"insert after blocks", pack('I', uint32(600), 'N', tuple("1")), `insert 600 new=("1")`},
}

func newDecoder() *pgoutput.Decoder {
	return &pgoutput.Decoder{Skip: func(schema string) bool { return schema == "pgsluice" }}
}

func TestMessages(t *testing.T) {
	d := newDecoder()
	for _, s := range samples {
		rec, err := d.Decode(s.msg)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if got := text(rec); got != s.want {
			t.Errorf("%s:\n got %s\nwant %s", s.name, got, s.want)
		}
	}
}

// Every message, cut anywhere or with a byte too many, is an error: it means that server and
// decoder do not speak the same language. Only an abort has two lengths. What is left out is not
// looked into.
func TestWrongLengths(t *testing.T) {
	for i, s := range samples {
		ignored := s.want == "-" && !slices.Contains([]string{"relation of a skipped schema", "truncate of skipped relations"}, s.name)
		try := func(what string, msg []byte) {
			d := newDecoder()
			for _, before := range samples[:i] {
				mustDecode(t, d, before.msg)
			}
			rec, err := d.Decode(msg)
			switch {
			case err == nil && ignored:
			case err == nil && s.msg[0] == 'A' && len(msg) == 1+8:
			case err == nil:
				t.Errorf("%s: %s is decoded as %s", s.name, what, text(rec))
			case rec != nil:
				t.Errorf("%s: %s: %s comes with the error %v", s.name, what, text(rec), err)
			case !strings.HasPrefix(err.Error(), "pgoutput message '"+string(rune(s.msg[0]))+"': "):
				t.Errorf("%s: %s: the error %q does not name the message", s.name, what, err)
			}
		}
		for n := 1; n < len(s.msg); n++ {
			try(fmt.Sprintf("cut to %d of %d bytes", n, len(s.msg)), s.msg[:n:n])
		}
		try("one byte more", append(slices.Clone(s.msg), 0))
	}
}

func TestErrors(t *testing.T) {
	hostile := func(n uint32) []byte { return pack('I', uint32(100), 'N', uint16(3), 't', n, []byte("abc")) }
	for _, test := range []struct {
		name string
		msg  []byte
		want string
	}{
		{"nothing", nil, "empty replication message"},
		{"unknown kind", pack('?', uint32(1)), "'?': unknown kind of replication message"},
		// Two-phase commit is never asked for.
		{"begin prepare", pack('b', uint64(1), uint64(2), at, uint32(3), "gid"), "'b': unknown kind of replication message"},
		{"prepare", pack('P', byte(0), uint64(1), uint64(2), at, uint32(3), "gid"), "'P': unknown kind of replication message"},
		{"commit prepared", pack('K', byte(0), uint64(1), uint64(2), at, uint32(3), "gid"), "'K': unknown kind of replication message"},
		{"rollback prepared", pack('r', byte(0), uint64(1), uint64(2), at, at, uint32(3), "gid"), "'r': unknown kind of replication message"},
		{"stream prepare", pack('p', byte(0), uint64(1), uint64(2), at, uint32(3), "gid"), "'p': unknown kind of replication message"},

		{"insert into an unknown relation", pack('I', uint32(7), 'N', tuple("1")), "'I': no description of the relation with OID 7"},
		{"update of an unknown relation", pack('U', uint32(7), 'N', tuple("1")), "'U': no description of the relation with OID 7"},
		{"delete in an unknown relation", pack('D', uint32(7), 'K', tuple("1")), "'D': no description of the relation with OID 7"},
		{"truncate of an unknown relation", pack('T', uint32(2), byte(0), uint32(100), uint32(7)),
			"'T': no description of the relation with OID 7"},
		{"insert with too few columns", pack('I', uint32(100), 'N', tuple("1", "2")), "'I': tuple has 2 columns, but the relation has 3"},
		{"insert with too many columns", pack('I', uint32(100), 'N', tuple("1", "2", "3", "4")),
			"'I': tuple has 4 columns, but the relation has 3"},
		{"insert without columns", pack('I', uint32(100), 'N', tuple()), "'I': tuple has 0 columns, but the relation has 3"},
		{"update with a wrong old tuple", pack('U', uint32(100), 'K', tuple("1"), 'N', tuple("1", "2", "3")),
			"'U': tuple has 1 columns, but the relation has 3"},
		{"update with a wrong new tuple", pack('U', uint32(100), 'K', tuple("1", nil, nil), 'N', tuple("1")),
			"'U': tuple has 1 columns, but the relation has 3"},
		{"delete with a wrong old tuple", pack('D', uint32(100), 'K', tuple("1")), "'D': tuple has 1 columns, but the relation has 3"},
		{"insert of an old tuple", pack('I', uint32(100), 'K', tuple("1", nil, nil)), "'I': unknown kind of tuple 'K'"},
		{"update with two old tuples", pack('U', uint32(100), 'K', tuple("1", nil, nil), 'O', tuple("1", nil, nil)), "'U': unknown kind of tuple 'O'"},
		{"update of something else", pack('U', uint32(100), 'X', tuple("1", nil, nil)), "'U': unknown kind of tuple 'X'"},
		{"delete of a new tuple", pack('D', uint32(100), 'N', tuple("1", nil, nil)), "'D': unknown kind of tuple 'N'"},
		{"column of unknown kind", pack('I', uint32(100), 'N', uint16(3), 'x', 'n', 'n'), "'I': unknown kind of column 'x'"},
		{"value of 4 GiB", hostile(0xffffffff), "'I': message ends too early"},
		{"value of 1 GiB", hostile(1 << 30), "'I': message ends too early"},
		{"message of 4 GiB", pack('M', byte(1), uint64(1), "p", uint32(0xffffffff)), "'M': message ends too early"},
		{"truncate of 4 Gi relations", pack('T', uint32(0xffffffff), byte(0), uint32(100)), "'T': message ends too early"},
		{"relation of 65535 columns", pack('R', uint32(1), "s", "t", 'd', uint16(0xffff)), "'R': message ends too early"},
		{"names that do not end", pack('R', uint32(1), []byte("schema")), "'R': message ends too early"},
		{"an abort with half a position", pack('A', uint32(1), uint32(1), uint32(0)), "'A': message ends too early"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDecoder()
			mustDecode(t, d, accounts)
			rec, err := d.Decode(test.msg)
			if err == nil || rec != nil {
				t.Fatalf("got %s, %v", text(rec), err)
			}
			if want := strings.TrimPrefix("pgoutput message "+test.want, "pgoutput message empty "); !strings.HasSuffix(err.Error(), want) {
				t.Errorf("got %q, want %q", err, want)
			}
			// What went wrong leaves the decoder usable.
			if got := text(mustDecode(t, d, pack('I', uint32(100), 'N', tuple("1", nil, nil)))); got != `insert 100 new=("1", null, null)` {
				t.Error(got)
			}
		})
	}
}

// A server describes a relation again whenever its cache was invalidated. The stream gets it only
// if something has changed.
func TestRepeatedRelations(t *testing.T) {
	d := newDecoder()
	first := `relation 100 "public"."accounts" identity=d [id 25 key, name 25, note 25]`
	insert := pack('I', uint32(100), 'N', tuple("1", nil, nil))
	begin := pack('S', uint32(800), byte(1))
	for i, step := range []struct {
		msg  []byte
		want string
	}{
		{accounts, first},
		{accounts, "-"},
		{insert, `insert 100 new=("1", null, null)`},
		{begin, "stream-start 800 first=true"},
		{inBlock(800, accounts), "-"}, // the transaction id does not make it another
		{inBlock(801, accounts), "-"},
		{pack('E'), "stream-stop"},
		{relation(100, "public", "accounts", 'f', "*id", "name", "note"),
			`relation 100 "public"."accounts" identity=f [id 25 key, name 25, note 25]`},
		{accounts, first},
		{relation(100, "public", "renamed", 'd', "*id", "name", "note"),
			`relation 100 "public"."renamed" identity=d [id 25 key, name 25, note 25]`},
		{relation(100, "public", "renamed", 'd', "*id", "*name", "note"),
			`relation 100 "public"."renamed" identity=d [id 25 key, name 25 key, note 25]`},
		{relation(100, "public", "renamed", 'd', "*id", "*name"), `relation 100 "public"."renamed" identity=d [id 25 key, name 25 key]`},
		{pack('I', uint32(100), 'N', tuple("1", "2")), `insert 100 new=("1", "2")`},
		{relation(101, "public", "renamed", 'd', "*id", "*name"), `relation 101 "public"."renamed" identity=d [id 25 key, name 25 key]`},
		// Out of a skipped schema and back into it.
		{relation(400, "pgsluice", "streams", 'd', "*id"), "-"},
		{relation(400, "public", "streams", 'd', "*id"), `relation 400 "public"."streams" identity=d [id 25 key]`},
		{pack('I', uint32(400), 'N', tuple("1")), `insert 400 new=("1")`},
		{relation(400, "pgsluice", "streams", 'd', "*id"), "-"},
		{pack('I', uint32(400), 'N', tuple("1")), "-"},
		{relation(400, "pgsluice", "streams", 'd', "*id"), "-"},
	} {
		if got := text(mustDecode(t, d, step.msg)); got != step.want {
			t.Errorf("step %d:\n got %s\nwant %s", i, got, step.want)
		}
	}
}

// The decoder must not look into its relation's description later: the caller's buffer holds other
// messages by then.
func TestRelationIsKept(t *testing.T) {
	d := newDecoder()
	msg := slices.Clone(accounts)
	rec := mustDecode(t, d, msg).(*format.Relation)
	for i := range msg {
		msg[i] = 0xee
	}
	if got, want := text(rec), `relation 100 "public"."accounts" identity=d [id 25 key, name 25, note 25]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := text(mustDecode(t, d, accounts)); got != "-" {
		t.Errorf("got %s for a repeated relation", got)
	}
}

// Values point into the message: nothing is copied.
func TestValuesAreNotCopied(t *testing.T) {
	d := newDecoder()
	mustDecode(t, d, accounts)
	msg := pack('I', uint32(100), 'N', tuple("value", nil, nil))
	v := mustDecode(t, d, msg).(*format.Insert).New[0]
	msg[bytes.Index(msg, []byte("value"))] = 'V'
	if string(v.Data) != "Value" {
		t.Errorf("the value is %q", v.Data)
	}
	if cap(v.Data) != len(v.Data) {
		t.Error("appending to the value would write into the message")
	}
}

func TestCheckText(t *testing.T) {
	const bad = "caf\xe9"
	msgs := [][]byte{accounts, full,
		pack('I', uint32(100), 'N', tuple("1", bad, "café")),
		pack('U', uint32(200), 'O', tuple(bad, ""), 'N', tuple("x", unchanged{})),
		pack('D', uint32(200), 'O', tuple(bad, []byte(bad))),
	}
	for _, test := range []struct {
		check bool
		want  []string
	}{
		{false, []string{`insert 100 new=("1", "caf\xe9", "café")`,
			`update 200 old=("caf\xe9", "") new=("x", unchanged)`, `delete 200 old=("caf\xe9", \x636166e9)`}},
		{true, []string{`insert 100 new=("1", raw "caf\xe9", "café")`,
			`update 200 old=(raw "caf\xe9", "") new=("x", unchanged)`,
			`delete 200 old=(raw "caf\xe9", \x636166e9)`}},
	} {
		d := newDecoder()
		d.CheckText = test.check
		got, err := decode(d, msgs...)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got[2:], test.want) {
			t.Errorf("CheckText %t:\n got %s\nwant %s", test.check, strings.Join(got[2:], "\n     "), strings.Join(test.want, "\n     "))
		}
	}
}

// An update without an old tuple must not show the one of the update before.
func TestRecordsAreCleared(t *testing.T) {
	d := newDecoder()
	got, err := decode(d, full, accounts, pack('S', uint32(9), byte(1)),
		inBlock(9, pack('U', uint32(200), 'O', tuple("1", "2"), 'N', tuple("3", "4"))),
		inBlock(9, pack('T', uint32(2), byte(3), uint32(100), uint32(200))),
		pack('E'),
		pack('U', uint32(200), 'N', tuple("5", "6")),
		pack('T', uint32(1), byte(0), uint32(100)),
		pack('M', byte(0), uint64(1), "p", uint32(0)),
	)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`update 200 old=none new=("5", "6")`, "truncate [100] cascade=false restart=false",
		`message transactional=false lsn=0/1 "p" ""`}
	if !slices.Equal(got[6:], want) {
		t.Errorf("got %q, want %q", got[6:], want)
	}
}

// The old row of a table without columns is a row.
func TestNoColumns(t *testing.T) {
	d := newDecoder()
	got, err := decode(d, empty, pack('U', uint32(300), 'O', tuple(), 'N', tuple()))
	if err != nil || got[1] != "update 300 old=() new=()" {
		t.Errorf("%q, %v", got, err)
	}
}

// Without Skip, everything is decoded.
func TestNoSkip(t *testing.T) {
	got, err := decode(new(pgoutput.Decoder), skipped, pack('I', uint32(400), 'N', tuple("1")))
	if err != nil || !slices.Equal(got, []string{`relation 400 "pgsluice"."streams" identity=d [id 25 key]`, `insert 400 new=("1")`}) {
		t.Errorf("%q, %v", got, err)
	}
}

// The records of every transaction cost no allocation.
func TestAllocations(t *testing.T) {
	d := newDecoder()
	mustDecode(t, d, accounts)
	mustDecode(t, d, full)
	for name, msg := range map[string][]byte{
		"begin":  pack('B', uint64(0x100), at, uint32(700)),
		"insert": pack('I', uint32(100), 'N', tuple("1", nil, "text")),
		"update": pack('U', uint32(200), 'O', tuple("1", "2"), 'N', tuple("1", unchanged{})),
		"delete": pack('D', uint32(100), 'K', tuple("1", nil, nil)),
		"commit": pack('C', byte(0), uint64(0x100), uint64(0x130), at),
	} {
		mustDecode(t, d, msg)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := d.Decode(msg); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	d := newDecoder()
	mustDecode(b, d, accounts)
	for name, msg := range map[string][]byte{
		"insert": pack('I', uint32(100), 'N', tuple("4711042", "-3922", "row 0123456789abcdef")),
		"update": pack('U', uint32(100), 'N', tuple("4711042", "-3922", unchanged{})),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if _, err := d.Decode(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
