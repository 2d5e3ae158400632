// Package wayback finds what prevents a stream from the new primary back to the old one.
package wayback

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/roles"
)

// An Obstacle is something that prevents the way back, and its remedy.
type Obstacle struct {
	Status fault.Status
	Side   string   // source or target, of the migration
	Says   string   // what is wrong
	SQL    []string // statements that correct it, for a superuser of that side
	Hint   string   // what else corrects it
	Slots  bool     // it matters only until the slot exists
	Never  bool     // nothing corrects it
}

// Possible reports whether changes can be applied to a source of a version at all.
func Possible(version int) bool { return version >= old.Newest }

// Find finds what prevents the way back from a migration. It changes nothing. name is the
// migration's slot; if it is empty, its length is not checked.
func Find(ctx context.Context, source, target *pgx.Conn, name string) (list []Obstacle, err error) {
	const most = 63
	if n := len(slot.InsertOnly(slot.Back(name))) - most; n > 0 {
		list = append(list, Obstacle{Status: fault.Config, Side: "target",
			Says: fmt.Sprintf("the slot's name is %d characters too long: the publications of the way back add to it", n),
			Hint: fmt.Sprintf("Use a slot name of at most %d characters.", len(name)-n)})
	}
	if v := pgdial.Version(source.PgConn()); !Possible(v) {
		return []Obstacle{{Status: fault.Unavailable, Side: "source", Never: true, Hint: "Keep the old primary closed and as it is until the new one has proved itself.",
			Says: "the source is PostgreSQL " + pgdial.VersionText(v) + ", and changes can be applied from version 10 on"}}, nil
	}
	onTarget, err := decodes(ctx, target)
	if err != nil {
		return nil, err
	}
	onSource, err := takes(ctx, source)
	return append(append(list, onTarget...), onSource...), err
}

// decodes finds why the target's changes could not be decoded.
func decodes(ctx context.Context, c *pgx.Conn) (list []Obstacle, err error) {
	add := func(status fault.Status, hint, says string, sql ...string) {
		list = append(list, Obstacle{Status: status, Side: "target", Says: says, SQL: sql, Hint: hint})
	}
	if p, err := citus.Look(ctx, c); err != nil {
		return nil, err
	} else if p != nil {
		add(fault.Config, "", "the target is a Citus cluster, whose workers have their own WAL")
	}
	level, logical, err := slot.WALLevel(ctx, c)
	if err != nil {
		return nil, err
	}
	if !logical {
		add(fault.Config, "Restart the target afterwards. Services have a parameter for it, such as rds.logical_replication.",
			"wal_level is "+level+" on the target", "ALTER SYSTEM SET wal_level = logical;")
	}
	var user, database string
	var replicates, creates, slots, senders bool
	if err := c.QueryRow(ctx, `SELECT current_user::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text,
		(SELECT r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(current_user, g.oid, 'USAGE'))
			FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
		pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
		pg_catalog.current_setting('max_replication_slots')::int > (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots),
		pg_catalog.current_setting('max_wal_senders')::int > (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication)`).
		Scan(&user, &database, &replicates, &creates, &slots, &senders); err != nil {
		return nil, err
	}
	if !replicates {
		add(fault.Permission, "On RDS and Aurora: GRANT rds_replication TO "+text.Ident(user)+";",
			"the target's role has no REPLICATION attribute", "ALTER ROLE "+text.Ident(user)+" REPLICATION;")
	}
	if !creates {
		add(fault.Permission, "", "the target's role may not create a publication in the database",
			"GRANT CREATE ON DATABASE "+text.Ident(database)+" TO "+text.Ident(user)+";")
	}
	if !slots {
		add(fault.Config, "Raise max_replication_slots and restart the target, or drop slots that are no longer used.",
			"all of the target's max_replication_slots are taken")
		list[len(list)-1].Slots = true
	}
	if !senders {
		add(fault.Config, "Raise max_wal_senders and restart the target.", "all of the target's max_wal_senders are taken")
	}
	names, grants, err := tables(ctx, c, text.Ident(user), "NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')")
	if err == nil && len(names) > 0 {
		add(fault.Permission, "", "the target's role may not publish "+count.Of(len(names), "table")+", whose owner it is not: "+count.Some(names), grants...)
	}
	return list, err
}

// takes finds why changes could not be applied to the source.
func takes(ctx context.Context, c *pgx.Conn) (list []Obstacle, err error) {
	var user, database string
	var schema, created, creates bool
	if err := c.QueryRow(ctx, `SELECT current_user::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text, n.oid IS NOT NULL,
		EXISTS (SELECT FROM pg_catalog.pg_class t WHERE t.relnamespace = n.oid AND t.relname = 'streams'),
		CASE WHEN n.oid IS NULL THEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') ELSE pg_catalog.has_schema_privilege(n.oid, 'CREATE') END
		FROM (VALUES ('pgsluice')) v(name) LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = v.name`).
		Scan(&user, &database, &schema, &created, &creates); err != nil {
		return nil, err
	}
	me := text.Ident(user)
	switch {
	case created || creates:
	case schema: // ddl install has created it
		list = append(list, Obstacle{Status: fault.Permission, Side: "source",
			Says: "the source's role may not create tables in schema pgsluice, which another role owns",
			SQL:  []string{"GRANT USAGE, CREATE ON SCHEMA pgsluice TO " + me + ";"}})
	default:
		list = append(list, Obstacle{Status: fault.Permission, Side: "source",
			Says: "the source's role may not create schema pgsluice",
			SQL:  []string{"GRANT CREATE ON DATABASE " + text.Ident(database) + " TO " + me + ";"}})
	}
	names, grants, err := tables(ctx, c, me, `NOT (pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_table_privilege(c.oid, 'DELETE')
		AND pg_catalog.has_table_privilege(c.oid, 'TRUNCATE') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'))`)
	if err == nil && len(names) > 0 {
		list = append(list, Obstacle{Status: fault.Permission, Side: "source", SQL: grants,
			Says: "the source's role may not write to " + count.Of(len(names), "table") + ": " + count.Some(names)})
	}
	return list, err
}

// tables returns the names of the tables that a condition holds for, and the statements that make
// the role a member of their owners.
func tables(ctx context.Context, c *pgx.Conn, role, condition string) (names, grants []string, err error) {
	rows, err := c.Query(ctx, `SELECT n.nspname || '.' || c.relname, pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_' AND `+condition+`
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1`)
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[string]bool)
	var name, owner string
	_, err = pgx.ForEachRow(rows, []any{&name, &owner}, func() error {
		names = append(names, name)
		if !seen[owner] {
			grants = append(grants, roles.Member(pgdial.Version(c.PgConn()), owner, role)+";")
		}
		seen[owner] = true
		return nil
	})
	return names, grants, err
}

// Refusal returns the error that names all obstacles, or nil if there are none.
func Refusal(list []Obstacle) error {
	if len(list) == 0 {
		return nil
	}
	status := list[0].Status
	var says, todo []string
	for _, o := range list {
		says = append(says, o.Says)
		if len(o.SQL) > 0 {
			todo = append(todo, "As superuser on the "+o.Side+": "+strings.Join(o.SQL, " "))
		}
		if o.Hint != "" {
			todo = append(todo, o.Hint)
		}
	}
	return fault.New(status, "the way back cannot be made: %s", text.Escape(strings.Join(says, "; "))).
		WithHint("%s To cut over without a way back: scripts/cutover --no-reverse", strings.Join(todo, " "))
}
