package steps

import (
	"fmt"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// Foreign keys that reference the same table, or tables that reference each other, belong to one
// session. The rest is divided evenly.
func TestDivide(t *testing.T) {
	var list []creation
	key := func(table, references string) {
		o := &progress.Object{Type: "FK CONSTRAINT", Schema: "s", Table: table,
			SQL: "ALTER TABLE ONLY s." + table + "\n    ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES s." + references + "(id);"}
		list = append(list, creations(o, nil)...)
	}
	for i := range 100 {
		key(fmt.Sprintf("t%d", i), "parent")
		list = append(list, creations(&progress.Object{Type: "TRIGGER", Schema: "s", Table: fmt.Sprintf("t%d", i), SQL: "CREATE TRIGGER …"}, nil)...)
	}
	key("a", "b")
	key("b", "c")
	key("b", "a")
	key("tree", "tree")
	sessions := divide(list, 3)
	where := make(map[string]int) // by referenced table
	n := 0
	for i, some := range sessions {
		n += len(some)
		if len(some) < 50 {
			t.Errorf("session %d creates %d objects", i, len(some))
		}
		for _, x := range some {
			if x.Type != "FK CONSTRAINT" {
				continue
			}
			if in, ok := where[x.lane]; ok && in != i {
				t.Errorf("sessions %d and %d reference %q", in, i, x.lane)
			}
			where[x.lane] = i
		}
	}
	if n != len(list) {
		t.Errorf("%d of %d objects", n, len(list))
	}
	if _, apart := where["s\x00b"]; apart {
		t.Error("a and b reference each other, and are apart")
	}
	if len(where) != 4 {
		t.Errorf("%v", where)
	}
}
