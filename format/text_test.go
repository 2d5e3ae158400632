package format_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/format"
)

// The text form of records and bytes that the vectors in testdata are written in.
// testdata/vectors/README.md describes it.

// newRecord has every kind of record by its name.
var newRecord = func() map[string]format.Record {
	m := map[string]format.Record{"unknown": &format.Unknown{}, "fingerprint": &format.Fingerprint{}}
	for _, rec := range append(loadStream(), changeStream()...) {
		if rec.Kind() <= 24 || rec.Kind() == format.KindProgress {
			m[rec.Kind().String()] = rec
		}
	}
	return m
}()

// formatRecord returns a record as one line: its kind and a JSON object.
func formatRecord(rec format.Record) string {
	name := rec.Kind().String()
	if _, ok := rec.(*format.Unknown); ok {
		name = "unknown"
	}
	return name + " " + formatValue(reflect.ValueOf(rec).Elem())
}

func formatValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case format.LSN:
		return strconv.Quote(x.String())
	case format.Value:
		return formatTupleValue(x)
	case []byte:
		return formatString(x)
	case string:
		return formatString([]byte(x))
	}
	switch v.Kind() {
	case reflect.Pointer:
		return formatValue(v.Elem())
	case reflect.Map:
		var all []string
		for _, k := range slices.SortedFunc(maps.Keys(v.Interface().(map[string]string)), strings.Compare) {
			all = append(all, formatString([]byte(k))+":"+formatString([]byte(v.Interface().(map[string]string)[k])))
		}
		return "{" + strings.Join(all, ",") + "}"
	case reflect.Slice:
		var all []string
		for i := range v.Len() {
			all = append(all, formatValue(v.Index(i)))
		}
		return "[" + strings.Join(all, ",") + "]"
	case reflect.Struct:
		var all []string
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.IsExported() && !omitted(f, v.Field(i)) {
				all = append(all, strconv.Quote(fieldName(f))+":"+formatValue(v.Field(i)))
			}
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	switch {
	case v.CanUint(): // a Kind would print its name
		return strconv.FormatUint(v.Uint(), 10)
	case v.CanInt():
		return strconv.FormatInt(v.Int(), 10)
	}
	return strconv.FormatBool(v.Bool())
}

// omitted says whether a zero field goes without saying. The rows of a change do not, nor does an
// old row without columns, nor typmod.
func omitted(f reflect.StructField, v reflect.Value) bool {
	return v.IsZero() && f.Name != "New" && f.Name != "TypeMod" ||
		v.Kind() == reflect.Slice && v.Len() == 0 && f.Type != reflect.TypeFor[format.Tuple]()
}

// fieldName returns the name that SPEC.md has for a field.
func fieldName(f reflect.StructField) string {
	if name, _, _ := strings.Cut(f.Tag.Get("msgpack"), ","); name != "" {
		return name
	}
	switch f.Name {
	case "K":
		return "kind"
	case "SubXID":
		return "subxid"
	}
	var b []rune
	last := 'A'
	for _, r := range f.Name {
		if unicode.IsUpper(r) && unicode.IsLower(last) {
			b = append(b, '_')
		}
		b = append(b, unicode.ToLower(r))
		last = r
	}
	return string(b)
}

func formatTupleValue(v format.Value) string {
	switch v.Kind {
	case format.Null:
		return "null"
	case format.Text:
		return formatString(v.Data)
	case format.Binary:
		return `{"bin":"` + formatHex(v.Data) + `"}`
	case format.RawText:
		return `{"raw":"` + formatHex(v.Data) + `"}`
	}
	return `{"unchanged":true}`
}

// formatString returns text as a JSON string, other bytes (and what is shorter so, being
// monotonous) in hex.
func formatString(b []byte) string {
	odd := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) && r != '\n' && r != '\t' }
	if h := formatHex(b); len(h)+10 < len(b) || bytes.ContainsFunc(b, odd) {
		return `{"hex":"` + h + `"}`
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.Encode(string(b))
	return strings.TrimSpace(out.String())
}

// formatHex prints bytes in hex; a byte that is repeated often stands once, with a number.
func formatHex(b []byte) string {
	var all []string
	for len(b) > 0 {
		n := 1
		for n < len(b) && b[n] == b[0] {
			n++
		}
		if n < 16 {
			n = 1
			all = append(all, hex.EncodeToString(b[:1]))
		} else {
			all = append(all, fmt.Sprintf("%02x*%d", b[0], n))
		}
		b = b[n:]
	}
	return strings.Join(all, " ")
}

// parseHex reads what formatHex prints, in lines that may end with a comment.
func parseHex(s string) ([]byte, error) {
	var out []byte
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		for _, word := range strings.Fields(line) {
			digits, times, repeated := strings.Cut(word, "*")
			b, err := hex.DecodeString(digits)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", word, err)
			}
			n := 1
			if repeated {
				if n, err = strconv.Atoi(times); err != nil {
					return nil, fmt.Errorf("%s: %w", word, err)
				}
			}
			out = append(out, bytes.Repeat(b, n)...)
		}
	}
	return out, nil
}

// parseRecord reads what formatRecord prints.
func parseRecord(line string) (format.Record, error) {
	name, object, _ := strings.Cut(line, " ")
	if newRecord[name] == nil {
		return nil, fmt.Errorf("no kind of record is named %q", name)
	}
	d := json.NewDecoder(strings.NewReader(object))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return nil, err
	}
	v := reflect.New(reflect.TypeOf(newRecord[name]).Elem())
	if err := parseInto(v.Elem(), x); err != nil {
		return nil, fmt.Errorf("%s: %w", line, err)
	}
	return v.Interface().(format.Record), nil
}

func parseInto(v reflect.Value, x any) error {
	switch v.Interface().(type) {
	case format.LSN:
		s, _ := x.(string)
		lsn, err := format.ParseLSN(s)
		v.SetUint(uint64(lsn))
		return err
	case format.Value:
		value, err := parseTupleValue(x)
		v.Set(reflect.ValueOf(value))
		return err
	case []byte:
		b, err := parseString(x)
		v.SetBytes(b)
		return err
	case string:
		b, err := parseString(x)
		v.SetString(string(b))
		return err
	}
	switch x := x.(type) {
	case bool:
		v.SetBool(x)
	case json.Number:
		if v.CanInt() {
			i, err := strconv.ParseInt(string(x), 10, v.Type().Bits())
			v.SetInt(i)
			return err
		}
		u, err := strconv.ParseUint(string(x), 10, v.Type().Bits())
		v.SetUint(u)
		return err
	case []any:
		v.Set(reflect.MakeSlice(v.Type(), len(x), len(x)))
		for i := range x {
			if err := parseInto(v.Index(i), x[i]); err != nil {
				return err
			}
		}
	case map[string]any:
		if v.Kind() == reflect.Map {
			m := make(map[string]string)
			for k, value := range x {
				m[k], _ = value.(string)
			}
			v.Set(reflect.ValueOf(m))
			return nil
		}
		if v.Kind() == reflect.Pointer {
			v.Set(reflect.New(v.Type().Elem()))
			v = v.Elem()
		}
		for i := range v.NumField() {
			name := fieldName(v.Type().Field(i))
			if field, ok := x[name]; ok {
				if err := parseInto(v.Field(i), field); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				delete(x, name)
			}
		}
		if len(x) > 0 {
			return fmt.Errorf("unknown fields %v", x)
		}
	default:
		return fmt.Errorf("%v cannot stand here", x)
	}
	return nil
}

func parseTupleValue(x any) (v format.Value, err error) {
	if x == nil {
		return v, nil
	}
	object, _ := x.(map[string]any)
	switch {
	case object["bin"] != nil:
		v.Kind = format.Binary
		v.Data, err = parseHex(object["bin"].(string))
	case object["raw"] != nil:
		v.Kind = format.RawText
		v.Data, err = parseHex(object["raw"].(string))
	case object["unchanged"] != nil:
		v.Kind = format.Unchanged
	default:
		v.Kind = format.Text
		v.Data, err = parseString(x)
	}
	return v, err
}

func parseString(x any) ([]byte, error) {
	switch x := x.(type) {
	case string:
		return []byte(x), nil
	case map[string]any:
		if s, ok := x["hex"].(string); ok {
			return parseHex(s)
		}
	}
	return nil, errors.New("neither a string nor hex")
}

func TestTextForm(t *testing.T) {
	for name, recs := range roundTrips() {
		if strings.Contains(name, "65535") || strings.Contains(name, "many") {
			continue // that takes long and shows nothing more
		}
		for _, rec := range recs {
			line := formatRecord(rec)
			got, err := parseRecord(line)
			if err != nil {
				t.Fatalf("%s: %.200s: %v", name, line, err)
			}
			same(t, []format.Record{got}, []format.Record{rec})
		}
	}
	for _, line := range []string{"", "x {}", "begin", "begin {", `begin {"x":1}`, `begin {"xid":-1}`,
		`begin {"xid":4294967296}`, `begin {"commit_lsn":5}`,
		`insert {"new":[1]}`, `insert {"new":[{"bin":"0"}]}`, `message {"prefix":null}`} {
		if rec, err := parseRecord(line); err == nil {
			t.Errorf("%q is %+v", line, rec)
		}
	}
}

// annotate prints a stream in hex, with a line for each value and what it means.
func annotate(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		a := annotator{b: b}
		if !a.frame() {
			a = annotator{b: b}
			a.rest()
		}
		out.WriteString(a.out.String())
		b = a.b
	}
	return out.String()
}

type annotator struct {
	b   []byte
	out strings.Builder
}

// line takes n bytes and prints them with a remark.
func (a *annotator) line(depth, n int, remark string, args ...any) {
	const width = 60
	words := strings.Fields(formatHex(a.b[:n]))
	a.b = a.b[n:]
	indent := strings.Repeat("  ", depth)
	for first := true; first || len(words) > 0; first = false {
		text := indent
		for len(words) > 0 && len(text) < width-3 {
			text += words[0] + " "
			words = words[1:]
		}
		if text = strings.TrimRight(text, " "); first && remark != "" {
			text = fmt.Sprintf("%-*s # %s", width, text, fmt.Sprintf(remark, args...))
		}
		a.out.WriteString(text + "\n")
	}
}

func (a *annotator) rest() { a.line(0, len(a.b), "no frame that can be read") }

// arrayFields are the names of what stands in an array body.
var arrayFields = map[format.Kind][]string{
	7: {"part", "rows", "data"}, 8: {"part", "rows", "bytes"}, 10: {"oid", "offset", "data"}, 11: {"xid", "commit_lsn", "time"},
	12: {"commit_lsn", "end_lsn", "time"}, 13: {"relation", "new", "xid"},
	14: {"relation", "old", "new", "xid"}, 15: {"relation", "old", "xid"},
	16: {"relations", "flags", "xid"}, 17: {"transactional", "lsn", "prefix", "content", "xid"}, 18: {"xid", "first"},
	20: {"xid", "commit_lsn", "end_lsn", "time"}, 21: {"xid", "subxid", "lsn", "time"},
	22: {"gid", "xid", "prepare_lsn", "end_lsn", "time"},
	23: {"gid", "xid", "commit_lsn", "end_lsn", "time"}, 24: {"gid", "xid", "prepare_end_lsn", "end_lsn", "time"}, 64: {"lsn", "time"},
}

func (a *annotator) frame() bool {
	b := a.b
	if len(b) < 9 || b[0] != 0x93 || b[2] != 0xce || b[7] < 0xc4 || b[7] > 0xc6 {
		return false
	}
	head, body := 8+1<<(b[7]-0xc4), 0
	if len(b) < head {
		return false
	}
	for _, x := range b[8:head] {
		body = body<<8 | int(x)
	}
	if len(b) < head+body {
		return false
	}
	kind := format.Kind(b[1])
	a.line(0, head, "%v, %d bytes", kind, body)
	after := a.b[body:]
	a.b = a.b[:body]
	if kind != format.KindContinued {
		a.value(1, "", arrayFields[kind])
	}
	if len(a.b) > 0 {
		a.line(1, len(a.b), "")
	}
	a.b = after
	return true
}

// value prints one value; names are those of an array's elements.
func (a *annotator) value(depth int, name string, names []string) {
	if len(a.b) == 0 {
		return
	}
	if name != "" {
		name += " "
	}
	m := a.b[0]
	size := func(n int) (v int) {
		for _, x := range a.b[1:min(1+n, len(a.b))] {
			v = v<<8 | int(x)
		}
		return v
	}
	take := func(n int, remark string, args ...any) { a.line(depth, min(n, len(a.b)), name+remark, args...) }
	bytesOf := func(head, n int) []byte { return a.b[min(head, len(a.b)):min(head+n, len(a.b))] }
	container := func(head, n, step int) {
		if step == 1 {
			take(head, "array of %d", n)
		} else {
			take(head, "map of %d", n)
		}
		if n > 1000 { // too many to be read
			a.line(depth+1, len(a.b), "")
		}
		for i := 0; i < n*step && len(a.b) > 0; i++ {
			element := ""
			if i < len(names) {
				element = names[i]
			}
			a.value(depth+1+(i%step), element, nil)
		}
	}
	switch {
	case m < 0x80 || m >= 0xe0:
		take(1, "%d", int8(m))
	case m < 0x90:
		container(1, int(m&15), 2)
	case m < 0xa0:
		container(1, int(m&15), 1)
	case m < 0xc0:
		take(1+int(m&31), "%.40q", bytesOf(1, int(m&31)))
	case m == 0xc0:
		take(1, "nil")
	case m == 0xc2 || m == 0xc3:
		take(1, "%t", m == 0xc3)
	case m >= 0xc4 && m <= 0xc6:
		w := 1 << (m - 0xc4)
		take(1+w+size(w), "bin of %d", size(w))
	case m >= 0xc7 && m <= 0xc9:
		w := 1 << (m - 0xc7)
		take(2+w+size(w), "ext type %s of %d", hex.EncodeToString(bytesOf(1+w, 1)), size(w))
	case m >= 0xcc && m <= 0xcf:
		w := 1 << (m - 0xcc)
		take(1+w, "%d", uint64(size(w)))
	case m >= 0xd0 && m <= 0xd3:
		w := 1 << (m - 0xd0)
		take(1+w, "%d", size(w)<<(64-8*w)>>(64-8*w))
	case m >= 0xd4 && m <= 0xd8:
		take(2+1<<(m-0xd4), "ext type %s of %d", hex.EncodeToString(bytesOf(1, 1)), 1<<(m-0xd4))
	case m >= 0xd9 && m <= 0xdb:
		w := 1 << (m - 0xd9)
		take(1+w+size(w), "%.40q", bytesOf(1+w, size(w)))
	case m == 0xdc || m == 0xdd:
		w := 2 << (m - 0xdc)
		container(1+w, size(w), 1)
	case m == 0xde || m == 0xdf:
		w := 2 << (m - 0xde)
		container(1+w, size(w), 2)
	default:
		take(1, "")
	}
}

func TestAnnotate(t *testing.T) {
	for _, recs := range roundTrips() {
		b := write(t, recs...)
		if len(b) > 1<<16 {
			continue // that takes long and shows nothing more
		}
		got, err := parseHex(annotate(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%v: %.1000s", err, annotate(b))
		}
	}
	for n := range 300 { // what is damaged is printed too
		b := write(t, changeStream()...)
		b = b[:min(len(b), 3*n)]
		if got, err := parseHex(annotate(b)); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%v: %s", err, annotate(b))
		}
	}
}
