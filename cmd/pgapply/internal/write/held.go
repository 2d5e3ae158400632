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

// A recorded statement may be about a trigger, a rule or row level security that waits for the
// cutover, or may make one that has to. So it is executed on tables as they were, and what acts
// after it waits again.

// mayAct reports whether after a recorded statement there may be something that acts on rows, or
// what did so may be another.
func mayAct(d *format.DDL) bool {
	for _, kind := range []string{"TABLE", "TRIGGER", "RULE"} {
		if strings.HasSuffix(d.Type, " "+kind) {
			return true
		}
	}
	return d.Type == ""
}

// wake switches on again what waits for the cutover on the tables that a recorded statement is
// about.
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
		if err := l.s.exec(ctx, strings.TrimRight(x.SQL, "; \n")+"; "+progress.DoneSQL(x.ID)); err != nil {
			return err
		}
	}
	return nil
}

// rest makes what acts on rows after a recorded statement wait for the cutover.
func (l *lane) rest(ctx context.Context, d *format.DDL) error {
	if !mayAct(d) {
		return nil
	}
	return l.hold(ctx)
}

// hold makes all that acts on rows wait for the cutover.
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
