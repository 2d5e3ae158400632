package write

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// Recorded statements are other people's code, and so is the code that they call. They must not run
// with more rights than the role that executed them has on the target. What they leave in the
// session must not affect the statements that pgapply executes next.

// recorded reports whether a recorded statement is all that the group has.
func recorded(g *plan.Group) bool {
	if g.Len() != 1 || g.Skip {
		return false
	}
	op, _ := g.Op(0)
	return op.Kind == plan.OpDDL
}

// alter executes the recorded statement of a group in the open transaction.
func (l *lane) alter(ctx context.Context, g *plan.Group) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	op, _ := g.Op(0)
	keep := l.onConflict != StopOnConflict || l.old(g)
	if keep {
		if err := l.s.exec(ctx, "SAVEPOINT pgsluice_change"); err != nil {
			return err
		}
	}
	d := g.DDL(op)
	if err := l.wake(ctx, d); err != nil {
		return err
	}
	waiters, err := l.waiters(ctx, d)
	if err != nil {
		return err
	}
	refused, err := l.statement(ctx, d)
	if refused == nil && err == nil {
		refused, err = l.follow(ctx, d, waiters)
	}
	if err != nil {
		return err
	}
	if refused == nil {
		if err := l.rest(ctx, d); err != nil {
			return err
		}
		if l.written(g); keep {
			return l.s.exec(ctx, "RELEASE SAVEPOINT pgsluice_change")
		}
		return nil
	}
	left := l.superseded(g, d, refused)
	if !left && (l.onConflict != Skip || !isConflict(refused)) {
		if err := l.await(ctx, refused); err != nil {
			return err
		}
		return l.conflict(ctx, g, 0, refused)
	}
	if err := l.s.exec(ctx, "ROLLBACK TO SAVEPOINT pgsluice_change"); err != nil {
		return err
	}
	if err := l.clean(ctx, "0"); err != nil {
		return err
	}
	if left {
		l.log.Warn(fmt.Sprintf("a recorded %s of %s is older than the load and does not fit what was loaded, so it was left out: %v",
			d.Type, transaction(g.CommitLSN(0)), refused), "hint", "Compare the schemas: pgcutover missing --slot "+text.Shell(l.slot))
		return nil
	}
	return l.record(ctx, g, 0, "skipped", refused)
}

// undecided is the beginning of a statement that only reports why it cannot be repeated.
const undecided = "DO $pgsluice$BEGIN RAISE EXCEPTION "

// statement executes a recorded statement. The first error is the reason for a refusal; the second
// one is the session's.
func (l *lane) statement(ctx context.Context, d *format.DDL) (refused, err error) {
	if !strings.HasPrefix(d.SQL, undecided) {
		if all := sqltext.RulesOf(d.Settings).Split(d.SQL); len(all) != 1 || d.Type != "" && all[0].Tag() != d.Type {
			return fault.New(fault.Failed, "the statement is not the single %s that the source executed", d.Type), nil
		}
	}
	set, err := settings(d)
	if err != nil {
		return err, nil
	}
	partitions, err := l.scattered(ctx, d)
	if err != nil {
		return nil, err
	}
	other, timeout, refused, err := l.role(ctx, d.Owner)
	if refused != nil || err != nil {
		return refused, err
	}
	l.tainted = true
	if refused, err := l.single(ctx, set, d); refused != nil || err != nil {
		return refused, err
	}
	b := l.s.conn.Batch(ctx)
	if !other {
		b.Do(d.SQL)
	} else {
		// SET ROLE alone is no barrier, because the statement's own code could reset the role. The
		// server refuses that inside a SECURITY DEFINER function. Triggers that wait for the commit
		// run inside the function as well. None of the statement's code runs before the function is
		// called.
		b.Do("SET LOCAL ROLE " + plan.QuoteIdent(d.Owner))
		b.Do(`CREATE FUNCTION pg_temp.pgsluice_statement(pg_catalog.text) RETURNS pg_catalog.void LANGUAGE plpgsql SECURITY DEFINER
			AS 'BEGIN EXECUTE $1; SET CONSTRAINTS ALL IMMEDIATE; END'`)
		b.Parse("", "SELECT pg_temp.pgsluice_statement($1)")
		b.Bind("", 1, nil)
		b.String(d.SQL)
		b.Execute()
	}
	r, err := l.run(b)
	if err != nil {
		return nil, err
	}
	if r.Err != nil {
		return l.denied(r.Err, d), nil
	}
	tag := string(r.Tag)
	if err := l.clean(ctx, timeout); err != nil {
		return nil, err
	}
	if strings.HasPrefix(d.SQL, undecided) || !other && d.Type != "" && !answers(tag, d.Type) {
		return fault.New(fault.Failed, "the target executed %s, but the source executed %s", tag, d.Type), nil
	}
	if refused, err := l.compare(ctx, d); refused != nil || err != nil {
		return refused, err
	}
	if refused, err := l.together(ctx, d, partitions); refused != nil || err != nil {
		return refused, err
	}
	return nil, l.remember(ctx, d)
}

// remember records the tables that a statement has created. They need no load, because all of their
// rows come as changes.
func (l *lane) remember(ctx context.Context, d *format.DDL) error {
	for _, t := range Created(d) {
		if err := l.s.exec(ctx, progress.AddRecordedSQL(l.stream, t[0], t[1])); err != nil {
			return err
		}
	}
	return nil
}

// Created returns the tables that a recorded statement creates.
func Created(d *format.DDL) (names [][2]string) {
	if !strings.HasPrefix(d.Type, "CREATE ") && d.Type != "SELECT INTO" {
		return nil
	}
	for _, o := range d.Objects {
		if o.Type == "table" && len(o.Names) == 2 {
			names = append(names, [2]string{o.Names[0], o.Names[1]})
		}
	}
	return names
}

// single makes the settings and lets the server's own parser decide whether a statement is a single
// one. In a failed transaction, the server parses a statement and goes no further. To look up the
// names in the statement could already call other people's functions.
func (l *lane) single(ctx context.Context, set []string, d *format.DDL) (refused, err error) {
	b := l.s.conn.Batch(ctx)
	for _, sql := range set {
		b.Do(sql)
	}
	b.Do("SAVEPOINT pgsluice_parse")
	r, err := l.run(b)
	if err != nil || r.Err != nil {
		return refusal(r), err
	}
	b = l.s.conn.Batch(ctx)
	b.Do("SELECT 1 OPERATOR(pg_catalog./) 0") // search_path is already the statement's
	if _, err := l.run(b); err != nil {
		return nil, err
	}
	b = l.s.conn.Batch(ctx)
	b.Parse("", d.SQL)
	if r, err = l.run(b); err != nil {
		return nil, err
	}
	var pg *pgconn.PgError
	if !errors.As(r.Err, &pg) || pg.Code != "25P02" {
		if refused = r.Err; refused == nil {
			refused = errors.New("the server has not parsed the statement as expected")
		}
		return refused, nil
	}
	return nil, l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice_parse; RELEASE SAVEPOINT pgsluice_parse")
}

func refusal(r *pgwire.Result) error {
	if r == nil {
		return nil
	}
	return r.Err
}

// answers reports whether a command tag belongs to a command. If a query fills a table, the tag is
// that of a SELECT, with the number of rows.
func answers(tag, command string) bool {
	switch command {
	case "CREATE TABLE AS", "SELECT INTO", "CREATE MATERIALIZED VIEW":
		return tag == command || strings.HasPrefix(tag, "SELECT ")
	}
	return tag == command
}

// role reports whether a statement must run as another role than the session's. It also returns how
// long the session waits for locks.
func (l *lane) role(ctx context.Context, owner string) (other bool, timeout string, refused, err error) {
	kind := "MEMBER"
	if l.s.version >= 160000 {
		kind = "SET"
	}
	b := l.s.conn.Batch(ctx)
	b.Bind(l.s.name(b, `SELECT CURRENT_USER, pg_catalog.current_setting('lock_timeout'), pg_catalog.count(r.oid),
		coalesce(pg_catalog.bool_and(pg_catalog.pg_has_role(CURRENT_USER, r.oid, '`+kind+`')), false) FROM (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1) r`), 1, nil)
	b.String(owner)
	b.Execute()
	r, err := l.run(b)
	if err == nil {
		err = l.s.server.Explain(r.Err)
	}
	if err != nil {
		return false, "", nil, err
	}
	me, timeout, there, may := r.Row[0], r.Row[1], r.Row[2], r.Row[3]
	switch {
	case owner == "" || owner == me:
		return false, timeout, nil, nil
	case there == "0":
		return false, "", fault.New(fault.Config, "role %q, which executed it on the source, does not exist on the target", owner).
			WithHint("On the target: CREATE ROLE %s; and grant it the rights that it has on the source. Then start again.",
				text.Ident(owner)), nil
	case may != "t":
		grant := fmt.Sprintf("GRANT %s TO %s", text.Ident(owner), text.Ident(me))
		if l.s.version >= 160000 {
			grant += " WITH INHERIT TRUE, SET TRUE"
		}
		return false, "", fault.New(fault.Permission, "role %q executed it on the source, and role %q may not act as that role on the target", owner, me).
			WithHint("As an administrator of the target: %s. Then start again.", grant), nil
	}
	return true, timeout, nil, nil
}

// denied adds a hint to the error of a role that may not create temporary objects. The function
// that statement creates is a temporary object.
func (l *lane) denied(cause error, d *format.DDL) error {
	var pg *pgconn.PgError
	if errors.As(cause, &pg) && pg.Code == "42501" && pg.Routine == "InitTempTableNamespace" {
		return fault.New(fault.Permission, "role %q may not create temporary objects on the target: %w", d.Owner, cause).
			WithHint("On the target, as the database's owner: GRANT TEMPORARY ON DATABASE … TO %s", text.Ident(d.Owner))
	}
	return cause
}

// meaning lists the settings that change what a statement means. storage lists the settings that
// choose how an object is stored. A target that does not offer the choice loses nothing.
var (
	meaning = []string{"standard_conforming_strings", "backslash_quote", "array_nulls",
		"transform_null_equals", "DateStyle", "IntervalStyle", "TimeZone", "xmloption",
		"bytea_output", "extra_float_digits"}
	storage = map[string]string{
		"default_toast_compression":   "SELECT FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression' AND %s = ANY (enumvals)",
		"default_tablespace":          "SELECT FROM pg_catalog.pg_tablespace WHERE spcname = %s",
		"default_table_access_method": "SELECT FROM pg_catalog.pg_am WHERE amname = %s AND amtype = 't' AND EXISTS (SELECT FROM pg_catalog.pg_settings WHERE name = 'default_table_access_method')",
	}
)

// stringsSetting is the setting that decides how the server reads string literals.
const stringsSetting = "standard_conforming_strings"

// settings returns the statements that make the server read a statement as the source did, until
// the end of the transaction.
func settings(d *format.DDL) ([]string, error) {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(d.Settings)) {
		set := fmt.Sprintf("SELECT pg_catalog.set_config(%s, %s, true)", progress.Literal(name), progress.Literal(d.Settings[name]))
		condition := storage[name]
		switch {
		case name == stringsSetting:
			continue
		case slices.Contains(meaning, name):
		case condition != "":
			set += " WHERE EXISTS (" + fmt.Sprintf(condition, progress.Literal(d.Settings[name])) + ")"
		default:
			// Never take an unknown setting from a stream: the setting may grant rights.
			return nil, fault.New(fault.Config,
				"the source executed it with setting %q, which this version of pgapply does not know", name).
				WithHint("Use a newer pgapply.")
		}
		list = append(list, set)
	}
	// search_path comes after the last name that it would affect. standard_conforming_strings comes
	// after the last of pgapply's own strings that it would affect.
	list = append(list, "SELECT pg_catalog.set_config('search_path', "+progress.Literal(d.SearchPath)+", true)")
	if v := d.Settings[stringsSetting]; v != "" {
		list = append(list, "SELECT pg_catalog.set_config('"+stringsSetting+"', "+progress.Literal(v)+", true)")
	}
	return list, nil
}

// clean restores the session after other people's code has run in it. The code may have changed
// settings, prepared other statements under pgapply's names, or created tables that hide the
// server's own. This must suffice until the session is replaced.
func (l *lane) clean(ctx context.Context, timeout string) error {
	clear(l.s.prepared)
	sql := "RESET ROLE; CLOSE ALL; DEALLOCATE ALL; RESET ALL; DISCARD TEMP; UNLISTEN *; " + l.s.set
	if l.s.replica {
		sql += "; SET session_replication_role = replica"
	}
	return l.s.exec(ctx, sql+"; SET lock_timeout = "+progress.Literal(timeout))
}

// compare checks that the target has what the source's statement created or altered, and no longer
// has what it dropped.
func (l *lane) compare(ctx context.Context, d *format.DDL) (refused, err error) {
	if len(d.Objects) == 0 {
		return nil, nil
	}
	if strings.HasPrefix(d.Type, "DROP ") {
		for _, o := range d.Objects {
			b := l.s.conn.Batch(ctx)
			b.Do("SAVEPOINT pgsluice_object")
			l.find(b, o)
			r, err := l.run(b)
			if err != nil {
				return nil, err
			}
			there := r.Err == nil
			var pg *pgconn.PgError
			if errors.As(r.Err, &pg) && !slices.Contains([]string{"42P01", "42704", "42883", "3F000", "42703", "42809"}, pg.Code) {
				return r.Err, nil
			}
			if err := l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice_object; RELEASE SAVEPOINT pgsluice_object"); err != nil {
				return nil, err
			}
			if there {
				return fault.New(fault.Failed, "the source has dropped %s, but the target still has it", name(o)), nil
			}
		}
		return nil, nil
	}
	b := l.s.conn.Batch(ctx)
	for _, o := range d.Objects {
		l.find(b, o)
	}
	r, err := l.run(b)
	if err != nil || r.Err == nil {
		return nil, err
	}
	return fault.New(fault.Failed, "the source has changed %s, but the target does not have it: %w",
		name(d.Objects[min(len(r.Counts), len(d.Objects)-1)]), r.Err), nil
}

// find makes the server look up an object. The lookup fails if there is none.
func (l *lane) find(b *pgwire.Batch, o format.Object) {
	b.Bind(l.s.name(b, "SELECT pg_catalog.pg_get_object_address($1, $2::pg_catalog.text[], $3::pg_catalog.text[])"),
		3, func(i int) bool { return i > 0 })
	b.String(o.Type)
	for _, list := range [][]string{o.Names, o.Args} {
		b.Array(25)
		for _, s := range list {
			b.Elem([]byte(s))
		}
		b.CloseArray()
	}
	b.Execute()
}

func name(o format.Object) string {
	n := text.Ident(o.Names...)
	if len(o.Args) > 0 {
		n += " (" + strings.Join(o.Args, ", ") + ")"
	}
	return o.Type + " " + n
}

// shown returns a statement as messages and pgsluice.conflicts show it. It hides the text of kinds
// that may hold passwords.
func shown(d *format.DDL) string {
	for _, kind := range []string{"USER MAPPING", "SERVER", "FOREIGN ", "ROLE", "USER", "SUBSCRIPTION"} {
		if strings.Contains(d.Type, kind) {
			return d.Type + " (its text is not shown, since it may hold a password)"
		}
	}
	return d.SQL
}
