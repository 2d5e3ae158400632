package ddl

import (
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

func TestNamed_H10(t *testing.T) {
	for _, c := range []struct {
		typ   string
		names []string
		want  [3]string // schema, name, table
	}{
		{"table", []string{"public", "t"}, [3]string{"public", "t", "t"}},
		{"table column", []string{"public", "t", "a"}, [3]string{"public", "a", "t"}},
		{"table constraint", []string{"public", "t", "t_pkey"}, [3]string{"public", "t_pkey", "t"}},
		{"trigger", []string{"public", "t", "tr"}, [3]string{"public", "tr", "t"}},
		{"index", []string{"public", "i"}, [3]string{"public", "i", ""}},
		{"schema", []string{"s"}, [3]string{"", "s", ""}},
		{"operator class", []string{"btree", "public", "o"}, [3]string{"public", "o", ""}},
	} {
		d := &format.DDL{Objects: []format.Object{{Type: c.typ, Names: c.names}, {Type: "sequence", Names: []string{"x", "y"}}}}
		if named(d); [3]string{d.Schema, d.Name, d.Table} != c.want {
			t.Errorf("%s %q: %q, %q, %q", c.typ, c.names, d.Schema, d.Name, d.Table)
		}
	}
	named(new(format.DDL))
}
