package ledger

import (
	"fmt"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// later returns the statement that leaves the creation of a trigger or a rule to the cutover, as
// the load does. Created at once, it would fire for what sync applies. later returns nothing for
// other objects, and if no cutover follows.
func (c *comparison) later(o *inventory.Object) []string {
	if c.Stream == 0 || o.Class != inventory.Trigger && o.Class != inventory.Rule || o.SQL == "" || c.renamed() {
		return nil
	}
	kind := strings.ToUpper(o.Class)
	row := func(kind, name, sql string) string {
		return fmt.Sprintf("\n\t(%d, '%s', '%s', %s, %s, %s, %s)", c.Stream, progress.PhaseCutover, kind,
			literal(o.Schema), literal(o.Table), literal(name), literal(sql))
	}
	rows := []string{row(kind, o.Table+" "+o.Name, o.SQL)}
	if s := o.Fact("comment"); s != "" {
		rows = append(rows, row("COMMENT", commentName(o, &progress.Object{Table: o.Table}), comment(o, s)))
	}
	return []string{"INSERT INTO pgsluice.deferred (stream_id, phase, type, schema_name, table_name, name, definition) VALUES" +
		strings.Join(rows, ",")}
}
