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

// Statements that the source has recorded. They are other people's code, and so is what they call:
// whatever they do, they must not do it with more rights than the role that ran them has here, and
// what they leave behind in the session must not meet what we do in it next.

// recorded returns the group's statement if that is all that it has.
func recorded(g *plan.Group) bool {
	if g.Len() != 1 || g.Skip {
		return false
	}
	op, _ := g.Op(0)
	return op.Kind == plan.OpDDL
}

// alter executes the recorded statement that a group consists of, in the open transaction.
func (l *lane) alter(ctx context.Context, g *plan.Group) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	op, _ := g.Op(0)
	keep := l.onConflict != StopOnConflict
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
		if l.written(g, 0); keep {
			return l.s.exec(ctx, "RELEASE SAVEPOINT pgsluice_change")
		}
		return nil
	}
	if !keep || l.onConflict == Overwrite || !isConflict(refused) {
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
	return l.record(ctx, g, 0, "skipped", refused)
}

// undecided is how a statement begins that says itself why it cannot be repeated.
const undecided = "DO $pgsluice$BEGIN RAISE EXCEPTION "

// statement executes a recorded statement. The first error is why it was refused; the second one is
// the session's.
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
		// SET ROLE alone is no barrier: the statement's own code could reset it. Within a function
		// with its owner's rights the server refuses that. Triggers that wait for the commit run
		// there, too. Until the function is called, nothing of the statement's runs.
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

// remember notes the tables that a statement has made: they need no load, for all of their rows
// come with the changes.
func (l *lane) remember(ctx context.Context, d *format.DDL) error {
	if !strings.HasPrefix(d.Type, "CREATE ") && d.Type != "SELECT INTO" {
		return nil
	}
	for _, o := range d.Objects {
		if o.Type != "table" || len(o.Names) != 2 {
			continue
		}
		if err := l.s.exec(ctx, progress.AddRecordedSQL(l.stream, o.Names[0], o.Names[1])); err != nil {
			return err
		}
	}
	return nil
}

// single makes settings, and has the server's own parser say whether a statement is a single one.
// In a transaction that has failed the server parses a statement and goes no further: to look up
// what it names could already call functions of others.
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
	b.Do("SELECT 1 OPERATOR(pg_catalog./) 0") // the path is the statement's already
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

// answers reports whether the server's answer belongs to a command: it counts rows where a query
// fills a table.
func answers(tag, command string) bool {
	switch command {
	case "CREATE TABLE AS", "SELECT INTO", "CREATE MATERIALIZED VIEW":
		return tag == command || strings.HasPrefix(tag, "SELECT ")
	}
	return tag == command
}

// role reports whether a statement is to be executed as another role than the session's, and how
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

// denied adds what to do to an error of a role that may not have temporary objects: the function of
// alter is one.
func (l *lane) denied(cause error, d *format.DDL) error {
	var pg *pgconn.PgError
	if errors.As(cause, &pg) && pg.Code == "42501" && pg.Routine == "InitTempTableNamespace" {
		return fault.New(fault.Permission, "role %q may not create temporary objects on the target: %w", d.Owner, cause).
			WithHint("On the target, as the database's owner: GRANT TEMPORARY ON DATABASE … TO %s", text.Ident(d.Owner))
	}
	return cause
}

// meaning are the settings that change what a statement means. storage are those that choose how it
// is kept: a target may not have the choice, and is none the worse for it.
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

// stringsSetting is the setting that says how the server reads strings.
const stringsSetting = "standard_conforming_strings"

// settings returns the statements that make the server read a statement as the source has read it,
// until the end of the transaction.
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
			// Not from a stream: it may be one that gives rights.
			return nil, fault.New(fault.Config,
				"the source executed it with setting %q, which this version of pgapply does not know", name).
				WithHint("Use a newer pgapply.")
		}
		list = append(list, set)
	}
	// The path comes when there is no name left to be looked up with it, and the way to read
	// strings after the last string of ours that it would change.
	list = append(list, "SELECT pg_catalog.set_config('search_path', "+progress.Literal(d.SearchPath)+", true)")
	if v := d.Settings[stringsSetting]; v != "" {
		list = append(list, "SELECT pg_catalog.set_config('"+stringsSetting+"', "+progress.Literal(v)+", true)")
	}
	return list, nil
}

// clean makes the session ours again after others' code has run in it: they may have changed
// settings, prepared other statements under the names of ours, and made tables that are found
// before the server's own. Until the session is renewed, this has to do.
func (l *lane) clean(ctx context.Context, timeout string) error {
	clear(l.s.prepared)
	sql := "RESET ROLE; CLOSE ALL; DEALLOCATE ALL; RESET ALL; DISCARD TEMP; UNLISTEN *; " + l.s.set
	if l.s.replica {
		sql += "; SET session_replication_role = replica"
	}
	return l.s.exec(ctx, sql+"; SET lock_timeout = "+progress.Literal(timeout))
}

// compare looks for what the source's statement has created, altered or dropped.
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

// find has the server look for an object; it fails if there is none.
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

// shown is a statement as messages and pgsluice.conflicts show it. Some kinds may hold passwords.
func shown(d *format.DDL) string {
	for _, kind := range []string{"USER MAPPING", "SERVER", "FOREIGN ", "ROLE", "USER", "SUBSCRIPTION"} {
		if strings.Contains(d.Type, kind) {
			return d.Type + " (its text is not shown, since it may hold a password)"
		}
	}
	return d.SQL
}
