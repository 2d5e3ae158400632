package write

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// A row is the same JSON as a map of its values, however long they are and wherever they are cut.
func TestJSONRow(t *testing.T) {
	long := func(s string) string { return strings.Repeat(s, 40<<10/len(s)) }
	for _, v := range []string{"", "x", `"\<&>` + "\n\x01\x7f", "żółć 🐘 \u2028", "\xff\xfe", "ok\xc3",
		long("a"), long("🐘"), "x" + long("🐘"), "xx" + long("🐘"), "xxx" + long("🐘"),
		long("\xf0\x9f"), long("\x80"), long("\n\"\u2028ż")} {
		table := &plan.Table{Relation: &format.Relation{},
			Columns: []plan.Column{{Name: "b"}, {Name: `a"ż`}, {Name: "null"}, {Name: "unchanged"},
				{Name: "binary"}}}
		g := new(plan.Group)
		g.Update(table, nil, format.Tuple{{Kind: format.Text, Data: []byte(v)},
			{Kind: format.Text, Data: []byte(v)}, {}, {Kind: format.Unchanged},
			{Kind: format.Binary, Data: []byte(v)}})
		g.Fold()
		op, _ := g.Op(0)
		var got bytes.Buffer
		jsonRow(&got, g, table, op.New, []int{0, 1, 2, 3, 4})
		want, err := json.Marshal(map[string]any{"b": v, `a"ż`: v, "null": nil, "binary": fmt.Sprintf("\\x%x", v)})
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%.40q: got %.200s, want %.200s (%v)", v, got.Bytes(), want, err)
		}
		got.Reset()
		if jsonRow(&got, g, table, op.New, nil); got.String() != "{}" {
			t.Errorf("no columns are %s", got.Bytes())
		}
	}
}
