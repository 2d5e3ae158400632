package hold

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// Foreign keys may exist on the target before it is open. They do not act on what a session with
// session_replication_role = replica writes, but no session can truncate a table that another
// table references. Where they are in the way, they are dropped and wait for the cutover again.

// A Key is a foreign key that pgcutover has created and not yet validated.
type Key struct {
	ID                      int64    // in pgsluice.deferred
	Drops                   []string // statements that drop it
	Schema, Table, Name, To string   // To: its definition
}

// SelectKeys returns a query with one value, which ParseKeys reads: the foreign keys that were made
// for a stream, even if the server has made them anew since because a column's type has changed.
// If of is not empty, they are those that have, or reference, a table that the query of returns,
// or a table above or below it.
func SelectKeys(stream int32, of string) string {
	on := ""
	if of != "" {
		on = `WHERE EXISTS (SELECT FROM k x WHERE x.id = d.id AND (x.conrelid IN (SELECT oid FROM near) OR x.confrelid IN (SELECT oid FROM near)))`
	} else {
		of = "SELECT 0::pg_catalog.oid WHERE false"
	}
	return fmt.Sprintf(`WITH RECURSIVE r AS (SELECT d.*, pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', d.schema_name, d.table_name))::pg_catalog.oid AS root FROM pgsluice.deferred d
			WHERE d.stream_id = %d AND d.type = 'FK CONSTRAINT' AND (d.state = 'done' AND d.made IS NOT NULL OR d.state = 'running')),
		d AS (SELECT r.*, coalesce((SELECT k.oid FROM pg_catalog.pg_constraint k WHERE k.oid = r.made AND k.contype = 'f'),
			(SELECT k.oid FROM pg_catalog.pg_constraint k WHERE r.made IS NOT NULL AND k.conrelid = r.root AND k.contype = 'f' AND r.name = pg_catalog.concat(r.table_name, ' ', k.conname))) AS now FROM r),
		t AS (SELECT d.id, d.root AS oid FROM d WHERE d.state = 'running' AND d.root IS NOT NULL UNION SELECT t.id, i.inhrelid FROM t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid),
		k AS (SELECT d.id, k.oid, k.conrelid, k.confrelid, k.conname FROM d JOIN pg_catalog.pg_constraint k ON k.oid = d.now
			UNION ALL SELECT t.id, k.oid, k.conrelid, k.confrelid, k.conname FROM t JOIN d ON d.id = t.id JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f'
				AND NOT k.convalidated AND d.name = pg_catalog.concat(d.table_name, ' ', k.conname)),
		up AS (SELECT x.oid FROM (%s) x(oid) UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid),
		near AS (SELECT up.oid FROM up UNION SELECT i.inhrelid FROM near JOIN pg_catalog.pg_inherits i ON i.inhparent = near.oid)
		SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('ID', d.id,
			'Drops', (SELECT pg_catalog.json_agg(pg_catalog.format('ALTER TABLE ONLY %%s DROP CONSTRAINT %%I', k.conrelid::pg_catalog.regclass, k.conname)) FROM k WHERE k.id = d.id),
			'Schema', coalesce(n.nspname, d.schema_name), 'Table', coalesce(c.relname, d.table_name), 'Name', coalesce(m.conname, ''),
			'To', CASE WHEN m.oid IS NULL THEN d.definition ELSE pg_catalog.format(E'ALTER TABLE ONLY %%s\n    ADD CONSTRAINT %%I %%s;', m.conrelid::pg_catalog.regclass, m.conname,
				CASE WHEN d.definition ~ %s THEN pg_catalog.pg_get_constraintdef(m.oid) ELSE pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(m.oid), ' NOT VALID$', '') END) END)
			ORDER BY d.id)::pg_catalog.text, '[]')
		FROM d LEFT JOIN pg_catalog.pg_constraint m ON m.oid = d.now LEFT JOIN pg_catalog.pg_class c ON c.oid = m.conrelid LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		%s`, stream, of, progress.Literal(objects.UncheckedPattern), on)
}

// ParseKeys reads the result of SelectKeys. It leaves out keys that no longer exist.
func ParseKeys(result string) (list []Key, err error) {
	var all []Key
	err = json.Unmarshal([]byte(result), &all)
	for _, k := range all {
		if len(k.Drops) > 0 {
			list = append(list, k)
		}
	}
	return list, err
}

// KeysSQL returns the statements that drop the keys and have them wait for the cutover again.
func KeysSQL(list []Key) string {
	var b strings.Builder
	for i, k := range list {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(strings.Join(k.Drops, "; ") + "; UPDATE pgsluice.deferred SET state = 'deferred', made = NULL, finished_at = NULL")
		if k.Name != "" {
			b.WriteString(", schema_name = " + progress.Literal(k.Schema) + ", table_name = " + progress.Literal(k.Table) +
				", name = " + progress.Literal(k.Table+" "+k.Name) + ", definition = " + progress.Literal(k.To))
		}
		fmt.Fprintf(&b, " WHERE id = %d", k.ID)
	}
	return b.String()
}

// ReleaseKeys drops the foreign keys that SelectKeys finds, and has them wait for the cutover
// again. It returns their number.
func ReleaseKeys(ctx context.Context, c *pgx.Conn, stream int32, of string) (int, error) {
	var result string
	if err := c.QueryRow(ctx, SelectKeys(stream, of)).Scan(&result); err != nil {
		return 0, err
	}
	list, err := ParseKeys(result)
	for i := range list { // each needs the locks of two tables
		if err == nil {
			_, err = c.Exec(ctx, "BEGIN; "+KeysSQL(list[i:i+1])+"; COMMIT", pgx.QueryExecModeSimpleProtocol)
		}
	}
	if err != nil && !c.IsClosed() {
		_, _ = c.Exec(ctx, "ROLLBACK")
	}
	return len(list), err
}
