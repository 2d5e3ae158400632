package write

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/format"
)

// A recorded statement may concern a trigger, a rule or row level security that waits for the
// cutover, or may create one that must wait. The statement therefore runs on tables in their
// original state. What acts on rows after the statement is deferred again.

// mayAct reports whether a recorded statement may add or change something that acts on rows.
func mayAct(d *format.DDL) bool {
	for _, kind := range []string{"TABLE", "TRIGGER", "RULE"} {
		if strings.HasSuffix(d.Type, " "+kind) {
			return true
		}
	}
	return d.Type == ""
}

// wake enables again the deferred objects on the tables that a recorded statement names. If the
// statement names no tables, wake enables all of them.
func (l *lane) wake(ctx context.Context, d *format.DDL) error {
	if !mayAct(d) {
		return nil
	}
	row, err := l.s.ask(ctx, fmt.Sprintf(`SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('ID', id, 'Schema', schema_name, 'Table', table_name, 'SQL', definition) ORDER BY id)::pg_catalog.text, '[]')
		FROM pgsluice.deferred WHERE stream_id = %d AND state IN ('deferred', 'failed') AND type IN (%s)`, l.stream, hold.Types))
	if err != nil {
		return err
	}
	var list []struct {
		ID                 int64
		Schema, Table, SQL string
	}
	if err := json.Unmarshal([]byte(row[0]), &list); err != nil {
		return err
	}
	about := make(map[[2]string]bool)
	for _, o := range d.Objects {
		if len(o.Names) >= 2 {
			about[[2]string{o.Names[0], o.Names[1]}] = true
		}
	}
	for _, x := range list {
		if len(d.Objects) > 0 && !about[[2]string{x.Schema, x.Table}] {
			continue
		}
		if err := l.s.exec(ctx, strings.TrimRight(l.s.alone(x.SQL), "; \n")+"; "+progress.DoneSQL(x.ID)); err != nil {
			return err
		}
	}
	return nil
}

// rest defers to the cutover what acts on rows after a recorded statement.
func (l *lane) rest(ctx context.Context, d *format.DDL) error {
	if !mayAct(d) {
		return nil
	}
	return l.hold(ctx)
}

// hold defers to the cutover everything that acts on rows.
func (l *lane) hold(ctx context.Context) error {
	row, err := l.s.ask(ctx, hold.Select(l.s.version, l.s.replica, hold.AllTables))
	if err != nil {
		return err
	}
	list, err := hold.Parse(row[0])
	if err != nil {
		return err
	}
	if list, err = hold.Refused(hold.Acting(list), l.s.version); err != nil || len(list) == 0 {
		return err
	}
	return l.s.exec(ctx, hold.SQL(l.stream, list))
}
