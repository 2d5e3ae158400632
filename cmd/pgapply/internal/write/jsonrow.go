package write

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// jsonRow writes columns of a tuple as a JSON object of strings. It leaves out columns that were
// not sent. It escapes values piece by piece, because they may be huge.
func jsonRow(out io.Writer, g *plan.Group, t *plan.Table, tuple int32, cols []int) {
	w := bufio.NewWriterSize(out, 64<<10) // it keeps out's first error
	cols = slices.SortedFunc(slices.Values(cols), func(i, j int) int { return strings.Compare(t.Columns[i].Name, t.Columns[j].Name) })
	open := byte('{')
	for _, i := range cols {
		kind, v := g.Value(tuple, i)
		if kind == format.Unchanged {
			continue
		}
		_ = w.WriteByte(open)
		open = ','
		jsonString(w, []byte(t.Columns[i].Name))
		_ = w.WriteByte(':')
		switch kind {
		case format.Null:
			_, _ = w.WriteString("null")
		case format.Binary:
			_, _ = w.WriteString(`"\\x`)
			_, _ = hex.NewEncoder(w).Write(v)
			_ = w.WriteByte('"')
		default:
			jsonString(w, v)
		}
	}
	if open == '{' {
		_ = w.WriteByte(open)
	}
	_ = w.WriteByte('}')
	_ = w.Flush()
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
