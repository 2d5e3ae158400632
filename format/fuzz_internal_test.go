package format

import (
	"bytes"
	"reflect"
	"regexp"
	"runtime"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// blanks returns an empty record of every kind.
func blanks() []Record {
	return []Record{new(Header), new(End), new(Relation), new(DDL), new(CopyBegin), new(CopyData),
		new(CopyEnd), new(Sequence), new(Fingerprint), new(LargeObject),
		new(Begin), new(Commit), new(Insert), new(Update), new(Delete), new(Truncate), new(Message), new(StreamStart), new(StreamStop),
		new(StreamCommit), new(StreamAbort), new(Prepare), new(CommitPrepared), new(RollbackPrepared), new(Progress), &Unknown{K: 65}}
}

// FuzzDecodeBody decodes a body as every kind of record. Whatever a decoder accepts must come back
// from what is encoded of it, and where the body is a map, mean the same to the msgpack library.
func FuzzDecodeBody(f *testing.F) {
	for _, rec := range []Record{
		&Header{StreamKind: Load, Publications: []string{"a"}, Load: &LoadInfo{Part: 1, Parts: 2}},
		&End{Reason: Complete, LSN: 1 << 40},
		&Relation{ID: 1, Name: "t", Columns: []Column{{Name: "a", TypeMod: -1, Key: true}, {Name: "b", OID: 1 << 31}}},
		&DDL{Section: PostData, After: []uint64{1, 1 << 33}, SQL: "x"},
		&CopyBegin{Format: CopyText, Index: 1, Of: 2, Columns: []string{"", "b"}},
		&CopyData{Part: 1, Data: []byte("data")}, &CopyEnd{Rows: 1 << 40},
		&Sequence{Name: "s", LastValue: -5}, &Fingerprint{Class: "index", Name: "i", Facts: "1"},
		&LargeObject{OID: 1, Data: []byte{0}},
		&Begin{XID: 1, Time: -1}, &Commit{}, &StreamStart{First: true}, &StreamStop{}, &StreamCommit{}, &StreamAbort{}, &Progress{},
		&Insert{Relation: 1, New: Tuple{{}, {Text, []byte("x")}, {Binary, []byte("y")}, {RawText, []byte{0xff}}}, XID: 1},
		&Update{Relation: 1, Old: Tuple{}, New: Tuple{{Kind: Unchanged}}}, &Update{}, &Delete{Old: Tuple{{}}},
		&Truncate{Relations: []uint32{1, 2}, Cascade: true}, &Message{Prefix: []byte("p")}, &Prepare{GID: []byte("g")},
	} {
		body, err := rec.appendBody(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		recs := blanks()
		errs := make([]error, len(recs))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i, rec := range recs {
			errs[i] = rec.decodeBody(body)
		}
		runtime.ReadMemStats(&after)
		// The most that a byte can cost is in columns of a byte each, and in the growth of the
		// slice that holds them.
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<16+300*uint64(len(body)) {
			t.Fatalf("%d bytes allocated for %d", n, len(body))
		}
		for i, rec := range recs {
			if errs[i] != nil {
				continue
			}
			k := rec.Kind()
			again, err := rec.appendBody(nil)
			if err != nil {
				t.Fatalf("%v: what was read cannot be written: %v", k, err)
			}
			copied := reflect.New(reflect.TypeOf(rec).Elem()).Interface().(Record)
			if err := copied.decodeBody(again); err != nil {
				t.Fatalf("%v: what was written cannot be read: %v", k, err)
			}
			third, err := copied.appendBody(nil)
			if err != nil || !bytes.Equal(third, again) {
				t.Fatalf("%v: %x is written as %x, then as %x", k, body, again, third)
			}
			if _, ok := rec.(mapRecord); ok {
				agrees(t, rec, body)
			}
		}
	})
}

// agrees checks that the msgpack library reads a map as we did.
func agrees(t *testing.T, rec Record, body []byte) {
	theirs := reflect.New(reflect.TypeOf(rec).Elem()).Interface().(Record)
	if err := msgpack.Unmarshal(body, theirs); err != nil {
		t.Fatalf("%v: the library: %v", rec.Kind(), err)
	}
	if r, ok := theirs.(*Relation); ok { // it does not know what a missing typmod means
		for i := range r.Columns {
			if r.Columns[i].TypeMod == 0 {
				r.Columns[i].TypeMod = rec.(*Relation).Columns[i].TypeMod
			}
		}
	}
	a, err := rec.appendBody(nil)
	b, err2 := theirs.appendBody(nil)
	if err != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Fatalf("%v: we read %+v, the library %+v", rec.Kind(), rec, theirs)
	}
}

// FuzzSkip compares skip with the msgpack library.
func FuzzSkip(f *testing.F) {
	for _, s := range []string{"\xc0", "\x93\x01\x02\x03", "\x82\xa1a\x01\xa1b\x91\xc3", "\xd9\x02ab",
		"\xc7\x03\x05abc", "\xd8\x010123456789abcdef", "\xde\x00\x01\xc4\x01a\xcb01234567",
		"\x91\x91\x91\x91\x91\x91\x91\x91\x90"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 { // the library follows nesting as deep as it goes
			return
		}
		c := cursor{b: b}
		if c.skip(); c.err == errDepth {
			return
		}
		rest := bytes.NewReader(b)
		err := msgpack.NewDecoder(rest).Skip()
		if (err == nil) != (c.err == nil) {
			t.Fatalf("we: %v, the library: %v", c.err, err)
		}
		if err == nil && rest.Len() != len(c.b) {
			t.Fatalf("we leave %d bytes, the library %d", len(c.b), rest.Len())
		}
	})
}

// FuzzValues takes values of every family from the same bytes, which must not panic, and never read
// beyond them.
func FuzzValues(f *testing.F) {
	f.Add([]byte("\xd4\x01\x00\xa1x\xc4\x01y\xd3\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, take := range []func(c *cursor){
			func(c *cursor) { c.uint() }, func(c *cursor) { c.uint32() }, func(c *cursor) { c.int() },
			func(c *cursor) { c.bool() }, func(c *cursor) { c.str() },
			func(c *cursor) { c.bin() }, func(c *cursor) { c.value() }, func(c *cursor) { c.arrayLen() },
			func(c *cursor) { c.mapLen() }, func(c *cursor) { c.tuple(nil, true) },
		} {
			for c := (cursor{b: b}); c.err == nil; {
				before := len(c.b)
				if take(&c); c.err == nil && len(c.b) >= before {
					t.Fatal("nothing was taken")
				}
			}
		}
	})
}

// FuzzParseLSN accepts what the pattern says, and nothing else.
func FuzzParseLSN(f *testing.F) {
	for _, s := range []string{"16/B374D848", "0/0", "FFFFFFFF/FFFFFFFF", "0/1garbage", "1FFFFFFFF/0", " 0/1",
		"+1/2", "0x1/2", "1_0/2", "//"} {
		f.Add(s)
	}
	pattern := regexp.MustCompile(`^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$`)
	f.Fuzz(func(t *testing.T, s string) {
		lsn, err := ParseLSN(s)
		if (err == nil) != (pattern.MatchString(s) && s[len(s)-1] != '\n') {
			t.Fatalf("%q: %v", s, err)
		}
		if again, err2 := ParseLSN(lsn.String()); again != lsn || err2 != nil {
			t.Fatalf("%q is %v, then %v, %v", s, lsn, again, err2)
		}
	})
}
