// Package hold finds what acts on the rows that our sessions write to a table of the target:
// triggers, rules and row level security. They have already acted on the source. So the package
// disables them until the cutover, and in the same transaction records their state in
// pgsluice.deferred.
package hold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// The types of recorded objects.
const (
	trigger  = "TRIGGER STATE"
	rule     = "RULE STATE"
	security = "ROW SECURITY STATE"
)

// Types lists the types for a query.
const Types = "'" + trigger + "', '" + rule + "', '" + security + "'"

// Is reports whether an object of this type was disabled by this package. Other objects are still
// to be created.
func Is(kind string) bool { return kind == trigger || kind == rule || kind == security }

// An Item is a trigger, a rule, or the row level security of a table.
type Item struct {
	Type          string
	Schema, Table string
	Name          string
	State         string // as pg_trigger.tgenabled has it
	Definition    string // of a trigger that is dropped, because its state alone cannot be restored
	Acts          bool   // it acts on what the session writes
	Owner         string // of the table
	Role          string // of the session
	Mine          bool   // the role has the owner's rights
	Citus         bool   // the server belongs to a Citus cluster
}

func (i *Item) relation() string { return pgx.Identifier{i.Schema, i.Table}.Sanitize() }

// state returns the ALTER TABLE statement that sets a state.
func (i *Item) state(state string) string {
	word := map[string]string{"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}[state]
	kind, only := " TRIGGER ", "ONLY "
	if i.Type == rule {
		kind, only = " RULE ", ""
	}
	return "ALTER TABLE " + only + i.relation() + " " + word + kind + pgx.Identifier{i.Name}.Sanitize() + ";"
}

func (i *Item) off() string {
	switch {
	case i.Type == security:
		return "ALTER TABLE ONLY " + i.relation() + " NO FORCE ROW LEVEL SECURITY;"
	case i.Definition != "":
		return "DROP TRIGGER " + pgx.Identifier{i.Name}.Sanitize() + " ON " + i.relation() + ";"
	}
	return i.state("D")
}

func (i *Item) on() string {
	switch {
	case i.Type == security:
		return "ALTER TABLE ONLY " + i.relation() + " FORCE ROW LEVEL SECURITY;"
	case i.Definition != "":
		return i.Definition
	}
	return i.state(i.State)
}

// String names the item for messages.
func (i *Item) String() string {
	on := text.Escape(i.Schema + "." + i.Table)
	switch i.Type {
	case security:
		return "row level security of " + on
	case rule:
		return "rule " + text.Escape(i.Name) + " of " + on
	}
	return "trigger " + text.Escape(i.Name) + " of " + on
}

// AllTables is a query for the OIDs of the tables outside the system schemas.
const AllTables = `SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_'`

// StreamTables returns a query for the OIDs of a stream's tables.
func StreamTables(stream int32) string {
	return fmt.Sprintf(`SELECT c.oid FROM pgsluice.tables t JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
		JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name WHERE t.stream_id = %d`, stream)
}

// OIDs returns a query for the given OIDs.
func OIDs(oids ...uint32) string {
	list := make([]string, len(oids))
	for i, oid := range oids {
		list[i] = strconv.FormatUint(uint64(oid), 10)
	}
	return "SELECT pg_catalog.unnest('{" + strings.Join(list, ",") + "}'::pg_catalog.oid[])"
}

// Select returns a query with one value, which Parse reads: the items of the tables that the query
// of returns, of the partitioned tables above them, and of all partitions of these. Partitioned
// tables come first. replica says whether the writing session has session_replication_role =
// replica.
func Select(version int, replica bool, of string) string {
	clone, definition := "false", "''"
	if version >= 130000 && version < 150000 {
		// Altering a trigger of the partitioned table also alters the partitions' triggers.
		clone = "g.tgparentid <> 0"
	}
	if version < 130000 { // the partitions' triggers are internal to the server
		definition = `CASE WHEN c.relkind <> 'p' THEN '' ELSE pg_catalog.pg_get_triggerdef(g.oid) || ';'
			|| CASE g.tgenabled WHEN 'O' THEN '' ELSE pg_catalog.format(E'\nALTER TABLE %I.%I %s TRIGGER %I;', n.nspname, c.relname, CASE g.tgenabled WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, g.tgname) END
			|| coalesce(pg_catalog.format(E'\nCOMMENT ON TRIGGER %I ON %I.%I IS ', g.tgname, n.nspname, c.relname) || pg_catalog.quote_literal(pg_catalog.obj_description(g.oid, 'pg_trigger')) || ';', '') END`
	}
	acts := func(column string) string {
		if replica {
			return column + " IN ('A', 'R')"
		}
		return column + " IN ('A', 'O')"
	}
	return `WITH RECURSIVE up(oid) AS (SELECT x.oid FROM (` + of + `) x(oid) UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
			JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'),
		down(oid, depth) AS (SELECT oid, 0 FROM up UNION SELECT i.inhrelid, down.depth + 1 FROM down JOIN pg_catalog.pg_inherits i ON i.inhparent = down.oid
			JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'),
		rel AS (SELECT c.oid, n.nspname, c.relname, c.relkind, c.relforcerowsecurity, pg_catalog.pg_get_userbyid(c.relowner) AS owner, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS mine, d.depth
			FROM (SELECT down.oid, pg_catalog.max(down.depth) AS depth FROM down GROUP BY down.oid) d JOIN pg_catalog.pg_class c ON c.oid = d.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'f')),
		item AS (SELECT '` + trigger + `' AS type, c.oid, g.tgname AS name, g.tgenabled AS state, ` + definition + ` AS definition, ` + acts("g.tgenabled") + ` AS acts
			FROM rel c JOIN pg_catalog.pg_namespace n ON n.nspname = c.nspname JOIN pg_catalog.pg_trigger g ON g.tgrelid = c.oid WHERE NOT g.tgisinternal AND (g.tgenabled <> 'D' OR ` + clone + `)
			UNION ALL SELECT '` + rule + `', c.oid, w.rulename, w.ev_enabled, '', ` + acts("w.ev_enabled") + `
			FROM rel c JOIN pg_catalog.pg_rewrite w ON w.ev_class = c.oid WHERE w.ev_type <> '1' AND w.ev_enabled <> 'D' AND c.relkind <> 'f'
			UNION ALL SELECT '` + security + `', c.oid, '', '', '', true FROM rel c WHERE c.relkind <> 'f' AND pg_catalog.row_security_active(c.oid))
		SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('Type', i.type, 'Schema', c.nspname, 'Table', c.relname, 'Name', i.name, 'State', i.state::pg_catalog.text,
			'Definition', i.definition, 'Acts', i.acts, 'Owner', c.owner, 'Role', current_user, 'Mine', c.mine, 'Citus', ` + citus.There + `) ORDER BY c.depth, c.oid, i.type, i.name)::pg_catalog.text, '[]') FROM item i JOIN rel c ON c.oid = i.oid`
}

// Parse reads the result of Select.
func Parse(result string) (list []Item, err error) {
	err = json.Unmarshal([]byte(result), &list)
	return list, err
}

// Acting returns the items that act. If there are any, it also returns the disabled ones, which
// preserve the states of the partitions' triggers.
func Acting(list []Item) []Item {
	if !slices.ContainsFunc(list, func(i Item) bool { return i.Acts }) {
		return nil
	}
	return slices.DeleteFunc(list, func(i Item) bool { return !i.Acts && i.State != "D" })
}

// Refused returns an error if the role may not disable an item that acts. Otherwise it returns all
// items of tables whose owner's rights the role has, including those that do not act.
func Refused(list []Item, version int) ([]Item, error) {
	var names, grants []string
	mine := list[:0:0]
	for _, i := range list {
		switch {
		case i.Mine:
			mine = append(mine, i)
		case i.Acts:
			names = append(names, i.String())
			grant := "GRANT " + text.Ident(i.Owner) + " TO " + text.Ident(i.Role)
			if version >= 160000 {
				grant += " WITH INHERIT TRUE, SET TRUE"
			}
			if !slices.Contains(grants, grant) {
				grants = append(grants, grant)
			}
		}
	}
	if len(names) == 0 {
		return mine, nil
	}
	return nil, fault.New(fault.Permission,
		"triggers, rules or row level security of the target would act on the rows that are written there, and role %q may not make them wait for the cutover",
		list[0].Role).
		WithDetail("%s", strings.Join(names, "\n")).
		WithHint("As superuser on the target: %s; Then start again.", strings.Join(grants, "; "))
}

// SQL returns the statements that disable items and record their previous state.
func SQL(stream int32, list []Item) string {
	var values, off strings.Builder
	for n := range list {
		i := &list[n]
		if n > 0 {
			values.WriteString(", ")
		}
		fmt.Fprintf(&values, "(%d, '%s'", stream, progress.PhaseCutover)
		for _, s := range []string{i.Type, i.Schema, i.Table, strings.TrimSpace(i.Table + " " + i.Name), i.on()} {
			values.WriteString(", " + progress.Literal(s))
		}
		values.WriteString(")")
		sql := i.off()
		if i.Citus {
			sql = citus.Alone(sql)
		}
		off.WriteString("; " + strings.TrimSuffix(sql, ";"))
	}
	return "INSERT INTO pgsluice.deferred (stream_id, phase, type, schema_name, table_name, name, definition) VALUES " +
		values.String() + off.String()
}

// lockTimeout is how long to wait for a lock that another session holds.
const lockTimeout = "10s"

// notOpening fails with division by zero while a cutover is about to enable the disabled items
// again. Its row lock also keeps a cutover from starting that step.
const notOpening = `SELECT FROM pgsluice.streams WHERE stream_id = %[1]d FOR UPDATE;
	SELECT 1 / (CASE WHEN EXISTS (SELECT FROM pgsluice.cutover WHERE stream_id = %[1]d AND step = 'open') THEN 0 ELSE 1 END); `

// Make disables items, in batches of one transaction each.
func Make(ctx context.Context, c *pgx.Conn, stream int32, list []Item) error {
	const batch = 100
	for part := range slices.Chunk(list, batch) {
		_, err := c.Exec(ctx, "BEGIN; SET LOCAL lock_timeout = '"+lockTimeout+"'; "+
			fmt.Sprintf(notOpening, stream)+SQL(stream, part)+"; COMMIT", pgx.QueryExecModeSimpleProtocol)
		if err == nil {
			continue
		}
		if !c.IsClosed() {
			_, _ = c.Exec(ctx, "ROLLBACK")
		}
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "55P03" {
			return fault.New(fault.TryAgain,
				"could not make triggers and rules of the target wait for the cutover: another session has locked one of their tables for %s",
				lockTimeout).
				WithHint("To see it: SELECT pid, usename, application_name, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE relation = %s::regclass); Then start again.",
					text.Literal(part[0].relation()))
		}
		if errors.As(err, &pg) && pg.Code == "22012" {
			return fault.New(fault.TryAgain,
				"the target is being opened by a cutover, or that was interrupted: nothing is to be applied any more").
				WithHint("Go on with it: pgcutover open. Or give the source back: pgcutover unfence")
		}
		return err
	}
	return nil
}

// Tables disables what acts on the tables that the query of returns until the cutover. It returns
// the number of disabled items.
func Tables(ctx context.Context, c *pgx.Conn, stream int32, replica bool, of string) (int, error) {
	list, err := Look(ctx, c, replica, of)
	if err != nil {
		return 0, err
	}
	if list, err = Refused(Acting(list), pgdial.Version(c.PgConn())); err != nil {
		return 0, err
	}
	return len(list), Make(ctx, c, stream, list)
}

// Look returns the items of the tables that the query of returns, and of related partitions.
func Look(ctx context.Context, c *pgx.Conn, replica bool, of string) ([]Item, error) {
	var result string
	if err := c.QueryRow(ctx, Select(pgdial.Version(c.PgConn()), replica, of)).Scan(&result); err != nil {
		return nil, err
	}
	return Parse(result)
}
