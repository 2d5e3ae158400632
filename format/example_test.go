package format_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/format"
)

// Count the rows of each table in a full load.
func ExampleReader() {
	in := exampleLoad() // a program has os.Stdin here

	r := format.NewReader(in)
	tables := map[uint32]string{} // by relation
	parts := map[uint32]string{}  // by part: several may be open at once, of one table or of many
	rows := map[string]uint64{}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break // comes only after an end record, never because the input was cut
		}
		if err != nil {
			log.Fatal(err) // says which frame, at which byte, after which LSN
		}
		switch rec := rec.(type) {
		case *format.Relation:
			tables[rec.ID] = rec.Schema + "." + rec.Name
		case *format.CopyBegin:
			parts[rec.Part] = tables[rec.Relation]
		case *format.CopyEnd:
			// Reader has compared these totals with the chunks. Rows of a part that is cut before
			// its end do not count.
			rows[parts[rec.Part]] += rec.Rows
		}
	}
	fmt.Println(rows)
	// Output: map[public.orders:1 public.users:3]
}

// A stream that was cut is not a short one: what was complete is there, and then an error says so.
func ExampleReader_truncated() {
	whole, _ := io.ReadAll(exampleChanges())
	r := format.NewReader(bytes.NewReader(whole[:230]))
	for {
		rec, err := r.Next()
		if errors.Is(err, format.ErrTruncated) {
			// The transaction that was open is void. Its position is the one to go on from.
			fmt.Println("complete up to", r.Position())
			fmt.Println(err)
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(rec.Kind())
	}
	// Output:
	// header
	// relation
	// begin
	// insert
	// complete up to 0/64
	// stream is truncated (frame 4, byte 227, after LSN 0/64)
}

// Make a stream of one transaction.
func ExampleWriter() {
	var out bytes.Buffer // a program has os.Stdout here

	w := format.NewWriter(&out)
	records := []format.Record{
		&format.Header{StreamKind: format.Changes, SystemID: "7301", Database: "shop", Slot: "mig", StartLSN: 100},
		// A relation stands before the first change of it, so that a reader knows what the values
		// are.
		&format.Relation{ID: 16384, Schema: "public", Name: "users",
			Columns: []format.Column{{Name: "id", TypeMod: -1, Key: true}, {Name: "email", TypeMod: -1}}},
		&format.Begin{XID: 700, CommitLSN: 200},
		// A value is text as PostgreSQL prints it. NULL is another kind of value, not an empty
		// text.
		&format.Insert{Relation: 16384, New: format.Tuple{format.TextValue([]byte("1")), {Kind: format.Null}}},
		&format.Commit{CommitLSN: 200, EndLSN: 210},
	}
	for _, rec := range records {
		// Writer refuses what a reader would refuse: here for instance a tuple of three values.
		if err := w.Write(rec); err != nil {
			log.Fatal(err)
		}
	}
	// Without an end record the stream is truncated. It has the totals, which Writer has counted.
	end, err := w.End(format.Complete, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d transaction, %d change, up to LSN %v\n", end.Transactions, end.Changes, end.LSN)
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	// Output: 1 transaction, 1 change, up to LSN 0/D2
}

// A filter stands between two programs of a pipeline. This one hides the column email of the table
// public.users, in full loads and in changes, and forwards everything else as it is. The whole of a
// program is
//
//	func main() {
//		if err := maskEmail(os.Stdin, os.Stdout); err != nil {
//			log.Fatal(err)
//		}
//	}
func Example_filter() {
	for _, in := range []io.Reader{exampleLoad(), exampleChanges()} {
		var out bytes.Buffer
		if err := maskEmail(in, &out); err != nil {
			log.Fatal(err)
		}
		show(&out)
	}
	// Output:
	// 1	***
	// 2	\N
	// 7	keys
	// 3	***
	// insert 4 ***
	// update 4 NULL
}

func maskEmail(in io.Reader, out io.Writer) error {
	r, w := format.NewReader(in), format.NewWriter(out)
	columns := map[uint32]int{}   // where email is, in the relations that have it
	parts := map[uint32]*copied{} // parts of full loads that have it
	for {
		// Next is about to wait for input. What has been written must not wait with it: continuous
		// sync goes on only when it is answered.
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
		rec, err := r.Next()
		if err == io.EOF {
			return w.Close()
		}
		if err != nil {
			return err
		}
		switch rec := rec.(type) {
		case *format.Header:
			// Each stream describes its relations anew. A header that continues a torn stream is
			// written like any other.
			clear(columns)
			clear(parts)
		case *format.Relation:
			// A relation comes again when it has changed; the column may have moved, or gone.
			delete(columns, rec.ID)
			if rec.Schema == "public" && rec.Name == "users" {
				for i, column := range rec.Columns {
					if column.Name == "email" {
						columns[rec.ID] = i
					}
				}
			}

		// Changes: values are replaced in place. That is allowed until the next call to Next.
		case *format.Insert:
			maskValue(rec.New, columns, rec.Relation)
		case *format.Update:
			maskValue(rec.Old, columns, rec.Relation)
			maskValue(rec.New, columns, rec.Relation)
		case *format.Delete:
			maskValue(rec.Old, columns, rec.Relation)

		// Full load: the part says which columns its data has.
		case *format.CopyBegin:
			if _, ok := columns[rec.Relation]; !ok {
				break
			}
			for i, name := range rec.Columns {
				if name == "email" {
					parts[rec.Part] = &copied{column: i}
				}
			}
			if parts[rec.Part] != nil && rec.Format != format.CopyText {
				return errors.New("cannot mask data in COPY's binary format")
			}
		case *format.CopyData:
			if p := parts[rec.Part]; p != nil {
				rec.Data = p.mask(rec.Data)
			}
		case *format.CopyEnd:
			if p := parts[rec.Part]; p != nil {
				rec.Bytes = p.bytes // the totals are those of what is written
				delete(parts, rec.Part)
			}

		case *format.End:
			// A filter writes its own totals.
			if _, err := w.End(rec.Reason, rec.LSN); err != nil {
				return err
			}
			continue
		}
		if err := w.Write(rec); err != nil {
			return err
		}
	}
}

// A source may be quiet for hours after a change. The filter does not keep the change until then.
func TestFilterHoldsNothingBack(t *testing.T) {
	in, producer := io.Pipe()
	consumer, out := io.Pipe()
	filtered := make(chan error, 1)
	go func() { filtered <- maskEmail(in, out) }()
	go func() {
		w := format.NewWriter(producer)
		for _, rec := range []format.Record{
			&format.Header{StreamKind: format.Changes, SystemID: "7301", Database: "shop", Slot: "mig", StartLSN: 100},
			&format.Begin{XID: 700, CommitLSN: 200},
			&format.Commit{CommitLSN: 200, EndLSN: 210},
		} {
			if err := w.Write(rec); err != nil {
				t.Error(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Error(err)
		}
	}()

	committed := make(chan error, 1)
	go func() {
		r := format.NewReader(consumer)
		for {
			rec, err := r.Next()
			if _, ok := rec.(*format.Commit); ok || err != nil {
				committed <- err
				return
			}
		}
	}()
	select {
	case err := <-committed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the commit is still in the filter")
	}
	producer.Close()
	if err := <-filtered; !errors.Is(err, format.ErrTruncated) {
		t.Errorf("the input was cut, and the filter says: %v", err)
	}
}

func maskValue(t format.Tuple, columns map[uint32]int, relation uint32) {
	i, ok := columns[relation]
	if !ok || t == nil {
		return
	}
	// NULL stays NULL, and a value that was not sent because it did not change was masked when it
	// was sent.
	if k := t[i].Kind; k != format.Null && k != format.Unchanged {
		t[i] = format.TextValue([]byte("***"))
	}
}

// copied is a part of a table that is being masked.
type copied struct {
	column int
	bytes  uint64
	buf    []byte
}

// mask replaces the column in each row of a chunk. A chunk ends at the end of a row, and COPY
// writes tabs and line feeds that are data with a backslash and a letter, so that rows and columns
// can be split without looking at what is in them.
func (p *copied) mask(data []byte) []byte {
	p.buf = p.buf[:0]
	for row := range bytes.Lines(data) {
		fields := bytes.Split(bytes.TrimSuffix(row, []byte("\n")), []byte("\t"))
		if string(fields[p.column]) != `\N` {
			fields[p.column] = []byte("***")
		}
		p.buf = append(append(p.buf, bytes.Join(fields, []byte("\t"))...), '\n')
	}
	p.bytes += uint64(len(p.buf))
	return p.buf
}

// A program that was built before a kind of record existed can still stand in the middle of a
// pipeline: records that it may ignore are returned as they are, and are forwarded by writing them.
// Records that it may not ignore are an error that says what is needed.
func ExampleUnknown() {
	in, out := exampleUnknown(), new(bytes.Buffer)
	r, w := format.NewReader(in), format.NewWriter(out)
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		if u, ok := rec.(*format.Unknown); ok {
			fmt.Printf("forward %v: %x\n", u.Kind(), u.Body)
		}
		if err := w.Write(rec); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(w.Close())
	// Output:
	// forward kind 100: 92a36e657701
	// <nil>
}

// What follows makes the streams that the examples read.

func exampleLoad() io.Reader {
	users := &format.Relation{ID: 1, Schema: "public", Name: "users", Columns: []format.Column{{Name: "id"}, {Name: "email"}}}
	orders := &format.Relation{ID: 2, Schema: "public", Name: "orders", Columns: []format.Column{{Name: "id"}, {Name: "item"}}}
	return exampleStream(
		&format.Header{StreamKind: format.Load}, users, orders,
		&format.CopyBegin{Part: 1, Relation: 1, Columns: []string{"id", "email"}, Format: format.CopyText, Index: 1, Of: 1},
		&format.CopyBegin{Part: 2, Relation: 2, Columns: []string{"id", "item"}, Format: format.CopyText, Index: 1, Of: 1},
		&format.CopyData{Part: 1, Rows: 2, Data: []byte("1\tann@example.org\n2\t\\N\n")},
		&format.CopyData{Part: 2, Rows: 1, Data: []byte("7\tkeys\n")},
		&format.CopyData{Part: 1, Rows: 1, Data: []byte("3\tbob@example.org\n")},
		&format.CopyEnd{Part: 2, Rows: 1, Bytes: 7},
		&format.CopyEnd{Part: 1, Rows: 3, Bytes: 41},
	)
}

func exampleChanges() io.Reader {
	return exampleStream(
		&format.Header{StreamKind: format.Changes, SystemID: "7301", Database: "shop", Slot: "mig", StartLSN: 100},
		&format.Relation{ID: 1, Schema: "public", Name: "users", Columns: []format.Column{{Name: "id"}, {Name: "email"}}},
		&format.Begin{XID: 700, CommitLSN: 200},
		&format.Insert{Relation: 1, New: format.Tuple{format.TextValue([]byte("4")), format.TextValue([]byte("eve@example.org"))}},
		&format.Update{Relation: 1, New: format.Tuple{format.TextValue([]byte("4")), {}}},
		&format.Commit{CommitLSN: 200, EndLSN: 210},
	)
}

func exampleUnknown() io.Reader {
	return exampleStream(&format.Header{StreamKind: format.Load}, &format.Unknown{K: 100, Body: []byte("\x92\xa3new\x01")})
}

func exampleStream(recs ...format.Record) io.Reader {
	var b bytes.Buffer
	w := format.NewWriter(&b)
	for _, rec := range recs {
		if err := w.Write(rec); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := w.End(format.Complete, 0); err != nil {
		log.Fatal(err)
	}
	return &b
}

// show prints the rows of a stream.
func show(in io.Reader) {
	r := format.NewReader(in)
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		switch rec := rec.(type) {
		case *format.CopyData:
			fmt.Printf("%s", rec.Data)
		case *format.Insert:
			fmt.Printf("insert %s %s\n", rec.New[0].Data, rec.New[1].Data)
		case *format.Update:
			fmt.Printf("update %s %s\n", rec.New[0].Data, map[bool]string{true: "NULL"}[rec.New[1].Kind == format.Null])
		}
	}
}
