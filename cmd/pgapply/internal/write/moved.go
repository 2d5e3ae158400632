package write

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/format"
)

// Objects that wait for the cutover are recorded with the name of their table. A recorded statement
// may rename the table, move it to another schema, or drop it.

// A waiter is an object that waits for the cutover, and its table.
type waiter struct {
	ID    int64
	Table uint32
	SQL   string
	Name  string // the table's name, with its schema
}

const tableName = "pg_catalog.format('%%I.%%I', n.nspname, c.relname)"

// waiters returns the waiting objects if the statement may rename or drop a table.
func (l *lane) waiters(ctx context.Context, d *format.DDL) (list []waiter, err error) {
	switch {
	case d.Type == "", d.Type == "ALTER TABLE", d.Type == "ALTER SCHEMA", strings.HasPrefix(d.Type, "DROP "):
	default:
		return nil, nil
	}
	row, err := l.s.ask(ctx, fmt.Sprintf(`SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('ID', d.id, 'Table', c.oid::pg_catalog.int8, 'SQL', d.definition, 'Name', `+tableName+`) ORDER BY d.id)::pg_catalog.text, '[]')
		FROM pgsluice.deferred d JOIN pg_catalog.pg_namespace n ON n.nspname = d.schema_name JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = d.table_name
		WHERE d.stream_id = %d AND d.state IN ('deferred', 'failed') AND d.phase = '%s'`, l.stream, progress.PhaseCutover))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(row[0]), &list); err != nil || len(list) == 0 {
		return nil, err
	}
	return list, l.s.exec(ctx, "SAVEPOINT pgsluice_moved")
}

// follow looks for the tables of the waiting objects after the statement. An object whose table was
// dropped no longer waits. An object whose table has a new name must exist before the statement.
// follow then rolls the statement back, creates the object, and executes the statement again.
func (l *lane) follow(ctx context.Context, d *format.DDL, list []waiter) (refused, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	oids := make([]string, len(list))
	for i, w := range list {
		oids[i] = fmt.Sprint(w.Table)
	}
	row, err := l.s.ask(ctx, fmt.Sprintf(`SELECT coalesce(pg_catalog.json_object_agg(c.oid::pg_catalog.text, `+tableName+`)::pg_catalog.text, '{}')
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ('{%s}'::pg_catalog.oid[])`, strings.Join(oids, ",")))
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	if err := json.Unmarshal([]byte(row[0]), &names); err != nil {
		return nil, err
	}
	var gone, before strings.Builder
	for i, w := range list {
		switch name, there := names[oids[i]]; {
		case !there:
			gone.WriteString("; " + progress.DoneSQL(w.ID))
		case name != w.Name:
			before.WriteString("; " + strings.TrimRight(l.s.alone(w.SQL), "; \n") + "; " + progress.DoneSQL(w.ID))
		}
	}
	if before.Len() == 0 {
		return nil, l.s.exec(ctx, "RELEASE SAVEPOINT pgsluice_moved"+gone.String())
	}
	if err := l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice_moved; RELEASE SAVEPOINT pgsluice_moved"+before.String()); err != nil {
		return nil, err
	}
	if refused, err = l.statement(ctx, d); refused != nil || err != nil || gone.Len() == 0 {
		return refused, err
	}
	return nil, l.s.exec(ctx, gone.String()[2:])
}
