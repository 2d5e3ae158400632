package write

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// A value of type jsonb has room for 256 MB. So a value that is longer than wholeValue is shortened
// to its first shortened bytes, and so are the values for which a row has no room below wholeRow.
const (
	wholeValue = 4 << 20
	wholeRow   = 16 << 20
	shortened  = 1 << 10
)

// jsonRow writes columns of a tuple as a JSON object of strings. It leaves out columns that were
// not sent. It escapes values piece by piece, because they may be long.
func jsonRow(out io.Writer, g *plan.Group, t *plan.Table, tuple int32, cols []int) {
	w := bufio.NewWriterSize(out, 64<<10) // it keeps out's first error
	cols = slices.SortedFunc(slices.Values(cols), func(i, j int) int { return strings.Compare(t.Columns[i].Name, t.Columns[j].Name) })
	open, room := byte('{'), wholeRow
	for _, i := range cols {
		kind, v := g.Value(tuple, i)
		if kind == format.Unchanged {
			continue
		}
		_ = w.WriteByte(open)
		open = ','
		jsonString(w, []byte(t.Columns[i].Name))
		_ = w.WriteByte(':')
		switch {
		case kind == format.Null:
			_, _ = w.WriteString("null")
		case len(v) > shortened && len(v) > min(room, wholeValue):
			sum := sha256.Sum256(v)
			n := shortened
			for kind == format.Text && n > shortened-utf8.UTFMax && !utf8.RuneStart(v[n]) {
				n--
			}
			_, _ = w.WriteString(`{"prefix":`)
			jsonValue(w, kind, v[:n])
			_, _ = fmt.Fprintf(w, `,"bytes":%d,"sha256":"%x"}`, len(v), sum)
			room -= n
		default:
			jsonValue(w, kind, v)
			room -= len(v)
		}
	}
	if open == '{' {
		_ = w.WriteByte(open)
	}
	_ = w.WriteByte('}')
	_ = w.Flush()
}

func jsonValue(w *bufio.Writer, kind format.ValueKind, v []byte) {
	if kind != format.Binary {
		jsonString(w, v)
		return
	}
	_, _ = w.WriteString(`"\\x`)
	_, _ = hex.NewEncoder(w).Write(v)
	_ = w.WriteByte('"')
}

// jsonString writes a string in pieces, which end where a character begins.
func jsonString(w *bufio.Writer, v []byte) {
	const piece = 16 << 10
	_ = w.WriteByte('"')
	for len(v) > 0 {
		n := min(len(v), piece)
		for k := n; n < len(v) && k > n-utf8.UTFMax; k-- {
			if utf8.RuneStart(v[k]) {
				n = k
				break
			}
		}
		b, _ := json.Marshal(string(v[:n])) // Marshal cannot fail for a string
		_, _ = w.Write(b[1 : len(b)-1])
		v = v[n:]
	}
	_ = w.WriteByte('"')
}
