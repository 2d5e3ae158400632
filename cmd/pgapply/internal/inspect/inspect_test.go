package inspect_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/inspect"
	"github.com/pgsluice/pgsluice/format"
)

func write(t *testing.T, reason string, records ...format.Record) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := format.NewWriter(&buf)
	for _, r := range records {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if reason == "" {
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	if _, err := w.End(reason, 0); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func load(info *format.LoadInfo) *format.Header {
	return &format.Header{StreamKind: format.Load, Load: info}
}

func relation(id uint32, name string) *format.Relation {
	return &format.Relation{ID: id, Schema: "public", Name: name, Columns: []format.Column{{Name: "a"}}}
}

func part(number, relation uint32, index, of uint64) []format.Record {
	return []format.Record{&format.CopyBegin{Part: number, Relation: relation, Format: format.CopyText, Index: index, Of: of},
		&format.CopyData{Part: number, Rows: 1, Data: []byte("1\n")}, &format.CopyEnd{Part: number, Rows: 1, Bytes: 2}}
}

func records(parts ...any) (list []format.Record) {
	for _, p := range parts {
		switch x := p.(type) {
		case format.Record:
			list = append(list, x)
		case []format.Record:
			list = append(list, x...)
		}
	}
	return list
}

// What Check finds beyond what format.Reader finds, and what it lets pass.
func TestCheck(t *testing.T) {
	changes := &format.Header{StreamKind: format.Changes, SystemID: "1", Database: "d", Slot: "s", StartLSN: 100}
	prepare := []format.Record{&format.Begin{XID: 7, CommitLSN: 200},
		&format.Prepare{GID: []byte("g"), XID: 7, PrepareLSN: 200, EndLSN: 210}}
	whole := write(t, format.Complete, records(load(nil), relation(1, "t"), part(1, 1, 2, 2), part(2, 1, 1, 2))...)
	half := write(t, format.Complete, records(load(nil), relation(1, "t"), part(1, 1, 2, 2))...)
	torn := write(t, "", records(load(nil), relation(1, "t"), part(1, 1, 2, 2)[:2])...)
	of := func(n, all uint64) *format.LoadInfo { return &format.LoadInfo{Snapshot: "s", Part: n, Parts: all} }
	one := write(t, format.Complete, records(load(of(1, 2)), relation(1, "t"), part(1, 1, 2, 2))...)
	for name, test := range map[string]struct {
		in   []byte
		want string // of the summary, or of the error
		bad  bool
	}{
		"whole":              {whole, "checked 1 stream: 9 frames, 2 rows of 1 table, 4 B", false},
		"a part is missing":  {half, "public.t (1 of 2 parts)", true},
		"a table is missing": {write(t, format.Complete, load(nil), relation(1, "t")), "public.t (0 of 1 part)", true},
		"it may be there":    {write(t, format.Complete, load(&format.LoadInfo{Resumed: true}), relation(1, "t")), "0 rows", false},
		"it comes afterwards": {append(bytes.Clone(half),
			write(t, format.Complete, records(load(nil), relation(9, "t"), part(1, 9, 1, 2))...)...),
			"checked 2 streams", false},
		"of another snapshot": {append(bytes.Clone(half),
			write(t, format.Complete, records(load(&format.LoadInfo{Snapshot: "x"}), relation(1, "t"),
				part(1, 1, 1, 2))...)...), "1 of 2 parts", true},
		"one of two streams": {one, "checked 1 stream", false},
		"both streams": {append(bytes.Clone(one),
			write(t, format.Complete, load(of(2, 2)), relation(1, "t"))...), "1 of 2 parts", true},
		"torn, and whole": {append(bytes.Clone(torn), whole...), "checked 2 streams", false},
		"torn":            {torn, "truncated (frame 4, byte 169)", true},
		"stopped": {write(t, format.Stopped, load(nil)),
			"end record: the full load was stopped before its end (frame 1, byte 44)", true},
		"a table twice": {write(t, format.Complete, load(nil), relation(1, "t"), relation(2, "t")),
			`table "public.t" is relation 1 already (frame 2, byte 104)`, true},
		"prepared twice": {write(t, format.Complete, records(changes, prepare, prepare)...),
			`transaction "g" was prepared already (frame 4, byte `, true},
		"prepared":  {write(t, format.Complete, records(changes, prepare)...), "4 frames, 0 changes in 0 transactions", false},
		"no stream": {[]byte("hello"), "not a pgsluice stream", true},
		"nothing":   {nil, "empty", true},
		"flipped": {append(bytes.Clone(whole[:70]),
			append([]byte{whole[70] ^ 1}, whole[71:]...)...), "wrong checksum (frame 1, byte 44)", true},
	} {
		t.Run(name, func(t *testing.T) {
			summary, err := inspect.Check(bytes.NewReader(test.in), func(string) {})
			if (err != nil) != test.bad || err != nil && fault.StatusOf(err) != fault.Data {
				t.Fatalf("%q, %v", summary, err)
			}
			if err != nil {
				summary = err.Error()
			}
			if !strings.Contains(summary, test.want) {
				t.Errorf("%q, not %q", summary, test.want)
			}
		})
	}
}

// Totals that are wrong are no damage, and are told.
func TestCheckTotals(t *testing.T) {
	var warnings []string
	in := write(t, "", load(nil), &format.End{Reason: format.Complete, Frames: 1, Rows: 7})
	if _, err := inspect.Check(bytes.NewReader(in), func(s string) { warnings = append(warnings, s) }); err != nil || len(warnings) != 1 {
		t.Errorf("%q, %v", warnings, err)
	}
}

// Every line is valid JSON, whatever the bytes, nothing in it is obeyed by a terminal, and each
// value can be told from every other.
func TestJSON(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	text := []byte("\x00\x1f\x7f\u0080\u009f\u00a0\u2028ż\U0001f600\"\\/\n\r\t\x1b[31m")
	values := format.Tuple{{}, {Kind: format.Text, Data: text}, {Kind: format.Text, Data: every},
		{Kind: format.RawText, Data: every}, {Kind: format.Binary, Data: every},
		{Kind: format.Binary, Data: text}, {Kind: format.Text}, {Kind: format.Unchanged}, {Kind: format.Text, Data: []byte("null")}}
	rel := &format.Relation{ID: 1, Schema: "a\x1b", Name: string(every), Columns: make([]format.Column, len(values))}
	for i := range rel.Columns {
		rel.Columns[i].Name = "c\n"
	}
	in := write(t, format.Complete,
		&format.Header{StreamKind: format.Changes, SystemID: "1", Database: "d\x00", Slot: "s",
			StartLSN: 0x16_b374d848, Created: math.MinInt64},
		rel, &format.Begin{XID: math.MaxUint32, CommitLSN: math.MaxUint64 - 2, Time: math.MaxInt64},
		&format.Update{Relation: 1, New: values},
		&format.Message{Transactional: true, Prefix: every, Content: text},
		&format.Truncate{Relations: []uint32{1, 1}, Cascade: true},
		&format.DDL{Section: format.Change, Name: string(text), SQL: string(every),
			Objects: []format.Object{{Type: "index", Names: []string{"a", string(text)}}}},
		&format.Unknown{K: 77, Body: every},
		&format.Commit{CommitLSN: math.MaxUint64 - 2, EndLSN: math.MaxUint64 - 1})
	var out bytes.Buffer
	if err := inspect.JSON(bytes.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte("\n"))
	if len(lines) != 10 {
		t.Fatalf("%d lines:\n%s", len(lines), out.Bytes())
	}
	var decoded []map[string]any
	for _, line := range lines {
		var v map[string]any
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		decoded = append(decoded, v)
		if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' }) {
			t.Errorf("characters that control, or that are lost: %q", line)
		}
	}
	coded := base64.StdEncoding.EncodeToString(every)
	for i, want := range []any{nil, string(text), map[string]any{"raw": coded}, map[string]any{"raw": coded},
		map[string]any{"binary": coded},
		map[string]any{"binary": base64.StdEncoding.EncodeToString(text)}, "", map[string]any{"unchanged": true}, "null"} {
		got := decoded[3]["new"].([]any)[i]
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if !bytes.Equal(a, b) {
			t.Errorf("value %d is %s, not %s", i, a, b)
		}
	}
	if _, there := decoded[3]["old"]; there {
		t.Error("an update without an old tuple has one")
	}
	if o, _ := json.Marshal(decoded[6]["objects"]); !strings.HasPrefix(string(o), `[["index",["a","`) ||
		!strings.HasSuffix(string(o), `"],[]]]`) {
		t.Errorf("objects: %s", o)
	}
	if decoded[0]["start_lsn"] != "16/B374D848" || decoded[2]["commit_lsn"] != "FFFFFFFF/FFFFFFFD" ||
		decoded[7]["number"] != 77.0 || decoded[4]["content"] != string(text) {
		t.Errorf("%s", out.Bytes())
	}
}

// What can be read is printed before an error is.
func TestJSONOfDamage(t *testing.T) {
	in := write(t, format.Complete, records(load(nil), relation(1, "t"), part(1, 1, 1, 1))...)
	var out bytes.Buffer
	err := inspect.JSON(bytes.NewReader(in[:len(in)-1]), &out)
	if fault.StatusOf(err) != fault.Data || !errors.Is(err, format.ErrTruncated) || bytes.Count(out.Bytes(), []byte("\n")) != 5 {
		t.Errorf("%v\n%s", err, out.Bytes())
	}
}

// A large value is not copied on its way.
func TestJSONDoesNotCopy(t *testing.T) {
	const size = 32 << 20
	for _, kind := range []format.ValueKind{format.Text, format.Binary} {
		in := write(t, format.Complete, &format.Header{StreamKind: format.Repair}, relation(1, "t"), &format.Begin{},
			&format.Insert{Relation: 1, New: format.Tuple{{Kind: kind, Data: bytes.Repeat([]byte("0123456\n"), size/8)}}}, &format.Commit{})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := inspect.JSON(bytes.NewReader(in), io.Discard); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > size/2 {
			// the record itself is in lent memory
			t.Errorf("kind %d: %d MB allocated for a value of %d MB", kind, n>>20, size>>20)
		}
	}
}
