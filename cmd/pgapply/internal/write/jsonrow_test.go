package write

import (
	"bytes"
	"crypto/sha256"
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

// A row has room in jsonb, however long its values are: the longest are shortened, and then those
// that come after them.
func TestJSONRowOfLongValues(t *testing.T) {
	t.Parallel()
	table := &plan.Table{Relation: &format.Relation{}}
	var tuple format.Tuple
	add := func(v format.Value) {
		table.Columns = append(table.Columns, plan.Column{Name: fmt.Sprint(len(tuple) + 10)})
		tuple = append(tuple, v)
	}
	long := bytes.Repeat([]byte("żx"), wholeValue/3+1)
	add(format.Value{Kind: format.Text, Data: long})
	add(format.Value{Kind: format.Binary, Data: long[:wholeValue+1]})
	for range 5 {
		add(format.Value{Kind: format.Text, Data: long[:wholeValue-16]})
	}
	add(format.Value{Kind: format.Text, Data: []byte("short")})
	g := new(plan.Group)
	g.Insert(table, tuple)
	g.Fold()
	op, _ := g.Op(0)
	var out bytes.Buffer
	jsonRow(&out, g, table, op.New, []int{7, 6, 5, 4, 3, 2, 1, 0})
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for i, v := range tuple {
		name := table.Columns[i].Name
		if i >= 2 && i <= 4 || i == 7 {
			if got[name] != string(v.Data) {
				t.Errorf("%d: %.100v", i, got[name])
			}
			continue
		}
		x, _ := got[name].(map[string]any)
		prefix := string(v.Data[:1023]) // 1024 ends within a character
		if v.Kind == format.Binary {
			prefix = fmt.Sprintf("\\x%x", v.Data[:1024])
		}
		if x["bytes"] != float64(len(v.Data)) || x["sha256"] != fmt.Sprintf("%x", sha256.Sum256(v.Data)) || x["prefix"] != prefix {
			t.Errorf("%d: %.300v", i, x)
		}
	}
	if out.Len() > 2*wholeRow {
		t.Errorf("%d bytes", out.Len())
	}
}
