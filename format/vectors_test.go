package format_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

var update = flag.Bool("update", false, "write the streams of the vectors that succeed anew, from their records")

// A vector is a file in testdata/vectors. See the README.md there.
type vector struct {
	name    string
	comment string            // the lines that begin with #
	fields  map[string]string // expect, reader, where, rewrite
	stream  []byte
	records []format.Record
}

const vectorFolder = "testdata/vectors"

func vectors(tb testing.TB) (all []*vector) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(vectorFolder, "*.txt"))
	must(tb, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(tb, err)
		v, err := parseVector(string(text))
		if err != nil {
			tb.Fatalf("%s: %v", file, err)
		}
		v.name = strings.TrimSuffix(filepath.Base(file), ".txt")
		all = append(all, v)
	}
	if len(all) == 0 {
		tb.Fatal("no vectors in " + vectorFolder)
	}
	return all
}

func parseVector(text string) (*vector, error) {
	v := &vector{fields: map[string]string{}}
	head, rest, ok := strings.Cut(text, "-- stream --\n")
	stream, records, ok2 := strings.Cut(rest, "-- records --\n")
	if !ok || !ok2 {
		return nil, errors.New("the two sections are missing")
	}
	for line := range strings.Lines(head) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, "#") {
			v.fields[name] = value
		} else if line != "" {
			v.comment += line + "\n"
		}
	}
	for line := range strings.Lines(records) {
		rec, err := parseRecord(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		v.records = append(v.records, rec)
	}
	var err error
	v.stream, err = parseHex(stream)
	return v, err
}

func (v *vector) String() string {
	var b strings.Builder
	b.WriteString(v.comment)
	for _, name := range []string{"expect", "reader", "where", "rewrite"} {
		if v.fields[name] != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, v.fields[name])
		}
	}
	b.WriteString("\n-- stream --\n" + annotate(v.stream) + "-- records --\n")
	for _, rec := range v.records {
		b.WriteString(formatRecord(rec) + "\n")
	}
	return b.String()
}

// expectation names the error as the vectors do.
func expectation(err error) string {
	var version *format.VersionError
	var unknown *format.UnknownKindError
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &version):
		return "version"
	case errors.As(err, &unknown):
		return "unknown-kind"
	case errors.Is(err, format.ErrNotStream):
		return "not-stream"
	case errors.Is(err, format.ErrEmpty):
		return "empty"
	case errors.Is(err, format.ErrTruncated):
		return "truncated"
	case errors.Is(err, format.ErrTooLarge):
		return "too-large"
	case errors.Is(err, format.ErrCorrupt):
		return "corrupt"
	}
	return err.Error()
}

func TestVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			if *update && v.fields["expect"] == "success" && v.fields["rewrite"] == "" {
				v.stream = write(t, v.records...)
			}
			if *update {
				must(t, os.WriteFile(filepath.Join(vectorFolder, v.name+".txt"), []byte(v.String()), 0o666))
			}
			seen[v.fields["expect"]] = true
			got, err := readBytes(v.stream)
			if expect := expectation(err); expect != v.fields["expect"] {
				t.Errorf("%s (%v), expected %s", expect, err, v.fields["expect"])
			}
			var where *format.Error
			if errors.As(err, &where) && fmt.Sprintf("frame %d, byte %d", where.Frame, where.Offset) != v.fields["where"] {
				t.Errorf("%v, expected %s", err, v.fields["where"])
			}
			same(t, got, v.records)
			// A reader that was not told of tears must do the same, or stop, where the vector says
			// so.
			strictly, strict := readFrom(format.NewReader(bytes.NewReader(v.stream)))
			switch {
			case v.fields["reader"] == "torn":
				if err != nil || !errors.Is(strict, format.ErrCorrupt) &&
					!errors.Is(strict, format.ErrTruncated) && !errors.Is(strict, format.ErrNotStream) ||
					!isPrefix(strictly, v.records) {
					t.Errorf("a reader that accepts no tears within frames: %v", strict)
				}
			case expectation(strict) != v.fields["expect"]:
				t.Errorf("a reader that accepts no tears within frames: %v, expected %s", strict, v.fields["expect"])
			}
			if err == nil && v.fields["rewrite"] == "" {
				if b := write(t, v.records...); !bytes.Equal(b, v.stream) {
					t.Errorf("the records are written as\n%s", annotate(b))
				}
			}
			// The annotations are for people, who must be able to trust them.
			if text, _ := os.ReadFile(filepath.Join(vectorFolder, v.name+".txt")); string(text) != v.String() {
				t.Errorf("the file is not as -update would write it:\n%s", v)
			}
		})
	}
	for _, expect := range []string{"success", "not-stream", "empty", "truncated", "corrupt", "too-large", "version", "unknown-kind"} {
		if !seen[expect] {
			t.Errorf("no vector expects %s", expect)
		}
	}
}

// Every kind of record and of value must be in some vector.
func TestVectorsCoverKinds(t *testing.T) {
	kinds, values := map[string]bool{}, map[format.ValueKind]bool{}
	for _, v := range vectors(t) {
		for _, rec := range v.records {
			name, _, _ := strings.Cut(formatRecord(rec), " ")
			kinds[name] = true
			if u, ok := rec.(*format.Update); ok {
				for _, value := range u.New {
					values[value.Kind] = true
				}
			}
		}
	}
	for name := range newRecord {
		if !kinds[name] {
			t.Errorf("no vector has a record of kind %s", name)
		}
	}
	for k := format.Null; k <= format.RawText; k++ {
		if !values[k] {
			t.Errorf("no vector has a value of kind %d", k)
		}
	}
}
