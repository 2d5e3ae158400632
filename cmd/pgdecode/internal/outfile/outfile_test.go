package outfile_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/outfile"
	"github.com/pgsluice/pgsluice/format"
)

func header(start format.LSN) *format.Header {
	return &format.Header{StreamKind: format.Changes, SystemID: "7301", Database: "shop", Slot: "mig", StartLSN: start}
}

// records writes records and returns their bytes, and after how many bytes of them there was a
// boundary at which LSN.
func records(t *testing.T, recs ...format.Record) (stream []byte, boundaries map[int]format.LSN) {
	t.Helper()
	var b bytes.Buffer
	boundaries = make(map[int]format.LSN)
	w := format.NewWriter(&b)
	for _, rec := range recs {
		if e, ok := rec.(*format.End); ok {
			if _, err := w.End(e.Reason, 0); err != nil {
				t.Fatal(err)
			}
		} else if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		switch rec.(type) {
		case *format.Header, *format.Commit, *format.Progress, *format.End, *format.StreamCommit:
			boundaries[b.Len()] = w.Totals().LSN
		}
	}
	return b.Bytes(), boundaries
}

func transaction(lsn format.LSN) []format.Record {
	return []format.Record{
		&format.Begin{XID: 7, CommitLSN: lsn}, &format.Insert{Relation: 1, New: format.Tuple{{Kind: format.Text, Data: []byte("value")}}},
		&format.Commit{CommitLSN: lsn, EndLSN: lsn + 8, Time: 1},
	}
}

func sample(t *testing.T) ([]byte, map[int]format.LSN) {
	recs := []format.Record{header(100), &format.Relation{ID: 1, Schema: "public", Name: "t", Columns: []format.Column{{Name: "a"}}}}
	recs = append(recs, transaction(200)...)
	recs = append(recs, &format.Progress{LSN: 300, Time: 1}, &format.StreamStart{XID: 9, First: true},
		&format.Insert{Relation: 1, New: format.Tuple{{}}, XID: 9}, &format.StreamStop{},
		&format.StreamCommit{XID: 9, CommitLSN: 310, EndLSN: 320, Time: 1},
		&format.End{Reason: format.Stopped}, header(320), recs[1])
	return records(t, append(recs, transaction(400)...)...)
}

// A file that was cut at any byte goes on after its last boundary, and can then be read as a whole.
func TestEveryCut(t *testing.T) {
	stream, boundaries := sample(t)
	path := filepath.Join(t.TempDir(), "out")
	for cut := range len(stream) + 1 {
		for _, tail := range []string{"", strings.Repeat("\x00", 30)} {
			// zeros: the length reached the disk, the data did not
			if err := os.WriteFile(path, append(stream[:cut:cut], tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			size, lsn := 0, format.LSN(0)
			for at, l := range boundaries {
				if at <= cut && at > size {
					size, lsn = at, l
				}
			}
			f, err := outfile.Open(path, 0)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if f.Position() != lsn || f.Torn() != int64(cut+len(tail)-size) {
				t.Fatalf("cut at %d: goes on after %v, %d bytes torn; want %v", cut, f.Position(), f.Torn(), lsn)
			}
			h := header(max(lsn, 100))
			if err := f.Begin(h); err != nil {
				t.Fatal(err)
			}
			w := format.NewWriter(f)
			if err := w.Write(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.End(format.Complete, 500); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			all, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(all[:size], stream[:size]) {
				t.Fatalf("cut at %d: what was complete has changed", cut)
			}
			r := format.NewReader(bytes.NewReader(all))
			var last format.Record
			for err == nil {
				var rec format.Record
				if rec, err = r.Next(); err == nil {
					last = rec
				}
			}
			if e, ok := last.(*format.End); err != io.EOF || !ok || e.LSN != 500 {
				t.Fatalf("cut at %d: then the last record is %+v: %v", cut, last, err)
			}
		}
	}
}

// Files in a row have names that sort in their order, and together are the stream.
func TestRotate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a[b].pgs")
	// None of these is one of ours.
	for _, other := range []string{"a[b].pgs.1", "a[b].pgs.0000000000000001.zst", "ab.pgs.0000000000000001", "a[b].pgs.000000000000000a"} {
		if err := os.WriteFile(filepath.Join(dir, other), []byte("other"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := outfile.Open(path, 100)
	if err != nil || f.Position() != 0 {
		t.Fatalf("nothing is there: %v, %v", f, err)
	}
	starts := []format.LSN{0xf, 0x10, 0xabcdef012, 0xabcdef0120}
	for i, start := range starts[:3] {
		w := format.NewWriter(f)
		for first := true; first || !f.Full(); first = false {
			if err := f.Begin(header(start)); err != nil {
				t.Fatal(err)
			}
			if err := w.Write(header(start)); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.End(format.Complete, starts[i+1]); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// The last one is begun, and its process killed.
	if err := f.Begin(header(starts[3])); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = outfile.Open(path, 100); err != nil || f.Position() != starts[3] {
		t.Fatalf("goes on after %v, want %v: %v", f.Position(), starts[3], err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, `a\[b].pgs.*[0-9A-F]`))
	want := []string{"000000000000000F", "0000000000000010", "0000000ABCDEF012"}
	if names = slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, ".1") }); len(names) != 3 {
		t.Fatalf("files: %q", names)
	}
	for i, n := range names {
		if !strings.HasSuffix(n, want[i]) {
			t.Errorf("file %d is %s, want %s", i, n, want[i])
		}
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	load, _ := records(t, &format.Header{StreamKind: format.Load, SystemID: "7301", Database: "shop"})
	newer := append([]byte(nil), load...)
	newer[bytes.Index(newer, []byte("version"))+len("version")] = 2
	for _, c := range []struct {
		path   string
		status fault.Status
		says   string
	}{
		{write("text", []byte("something else\n")), fault.Usage, "not a pgsluice stream"},
		{write("load", load), fault.Usage, `kind "load"`},
		{write("newer", newer), fault.Data, "version"},
		{dir, fault.Usage, "not a regular file"},
		{filepath.Join(dir, "text", "x"), fault.Usage, "could not open"},
	} {
		_, err := outfile.Open(c.path, 0)
		if err == nil || fault.StatusOf(err) != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	stream, _ := sample(t)
	path := write("ours", stream)
	f, err := outfile.Open(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outfile.Open(path, 0); fault.StatusOf(err) != fault.TryAgain {
		t.Errorf("opened twice: %v", err)
	}
	other := header(400)
	other.Slot = "other"
	if err := f.Begin(other); fault.StatusOf(err) != fault.Config {
		t.Errorf("another slot's stream: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, stream) {
		t.Errorf("the file has changed: %v", errors.Join(err))
	}
}
