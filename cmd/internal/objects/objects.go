// Package objects creates the objects of a schema that stand in pgsluice.deferred. What the server
// refuses as a whole it tries statement by statement, so that one missing role loses one statement;
// it records the failures with their first cause, tries them again, and says what they have in
// common.
package objects

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// A Session executes statements on the target.
type Session interface {
	// Exec sends statements as one query and returns the first error. A right that the server has
	// not granted, or not revoked, is one, although the server only warns of it.
	Exec(ctx context.Context, sql string) error
	// Ask returns the values of a query's only row.
	Ask(ctx context.Context, sql string) ([]string, error)
}

// Refused reports whether an error is the server's opinion of a statement, which says nothing of
// the session.
func Refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (!pgdial.Lost(err) || pg.Code == pgdial.OutOfLocks)
}

// Execute executes statements in one transaction, together with the one that records that. If it
// fails, the transaction is still open.
func Execute(ctx context.Context, s Session, sql, record string) error {
	if err := s.Exec(ctx, "BEGIN; SET LOCAL client_min_messages = warning;\n"+sql+"\n;"+record); err != nil {
		return err
	}
	return s.Exec(ctx, "COMMIT")
}

// A Maker makes objects in a session, with the state of one stream.
type Maker struct {
	Session Session
	Stream  int32
	NewID   func() (int64, error) // for a row of pgsluice.deferred

	exists    map[string]bool // roles
	patiently func(do func() error) error
}

// try is Execute, and takes back what it has done if that fails. The second error is not about the
// statements.
func (m *Maker) try(ctx context.Context, sql, record string) (refused, err error) {
	if m.patiently == nil {
		return m.once(ctx, sql, record)
	}
	err = m.patiently(func() error {
		var failed error
		if refused, failed = m.once(ctx, sql, record); failed == nil && waiting.IsLockTimeout(refused) {
			return refused
		}
		return failed
	})
	return refused, err
}

func (m *Maker) once(ctx context.Context, sql, record string) (refused, err error) {
	refused = Execute(ctx, m.Session, sql, record)
	if refused == nil {
		return nil, nil
	}
	if !Refused(refused) || ctx.Err() != nil {
		return nil, refused
	}
	return refused, m.Session.Exec(ctx, "ROLLBACK")
}

// Settle does what can be done about an object, recorded in pgsluice.deferred, that the server has
// refused for a reason, and records what could not. It returns the errors that are left of it, and
// an error if it could not do so.
func (m *Maker) Settle(ctx context.Context, o *progress.Object, reason error) (left []error, err error) {
	if list := units(o); list != nil {
		lost, err := m.lost(ctx, o)
		if err != nil {
			return nil, err
		}
		if !lost {
			return m.each(ctx, o, list)
		}
	}
	done, rest, err := m.instead(ctx, o, reason)
	if done || err != nil {
		return rest, err
	}
	return []error{reason}, m.Session.Exec(ctx, progress.FailSQL(o.ID, reason))
}

// lost reports whether something that the object needs could not be created: none of its statements
// can do anything then.
func (m *Maker) lost(ctx context.Context, o *progress.Object) (bool, error) {
	if len(o.Needs) == 0 {
		return false, nil
	}
	row, err := m.Session.Ask(ctx, progress.AnyFailedSQL(o.Needs))
	return err == nil && row[0] == "t", err
}

// each executes the statements of an object one by one. Those that fail become rows of their own.
func (m *Maker) each(ctx context.Context, o *progress.Object, list []unit) (left []error, err error) {
	var failed []progress.Object
	var reasons []error
	some := false // have been executed
	for _, u := range list {
		behind := -1
		for i, f := range failed {
			if follows(u.sql, f.SQL) {
				behind = i
			}
		}
		if behind >= 0 {
			failed[behind].SQL += "\n" + u.sql
			continue
		}
		one := progress.Object{Phase: o.Phase, Type: o.Type, Schema: o.Schema, Table: o.Table, Name: o.Name, SQL: u.sql, Needs: o.Needs}
		refused, err := m.try(ctx, u.sql, "SELECT")
		if err != nil {
			return nil, err
		}
		if refused == nil {
			some = true
			continue
		}
		if u.must {
			return []error{refused}, m.Session.Exec(ctx, progress.FailSQL(o.ID, refused))
		}
		if one.ID, err = m.NewID(); err != nil {
			return nil, err
		}
		failed, reasons = append(failed, one), append(reasons, refused)
	}
	if len(failed) == 1 && !some { // it stays what it was
		return reasons, m.Session.Exec(ctx, progress.FailSQL(o.ID, reasons[0]))
	}
	// Only now the rows are written: if this is interrupted before, all is tried again, which does
	// no harm.
	var sql strings.Builder
	sql.WriteString("BEGIN; " + progress.DoneSQL(o.ID))
	for i := range failed {
		sql.WriteString("; " + progress.AddObjectsSQL(m.Stream, failed[i:i+1], "done") + "; " + progress.FailSQL(failed[i].ID, reasons[i]))
	}
	sql.WriteString("; COMMIT")
	if err := m.Session.Exec(ctx, sql.String()); err != nil {
		return nil, err
	}
	for i := range failed {
		done, rest, err := m.instead(ctx, &failed[i], reasons[i])
		if err != nil {
			return nil, err
		}
		if !done {
			rest = []error{reasons[i]}
		}
		left = append(left, rest...)
	}
	return left, nil
}

// instead executes another statement in place of one that was refused, if there is one that does
// the same as far as it can be done.
func (m *Maker) instead(ctx context.Context, o *progress.Object, reason error) (done bool, left []error, err error) {
	var pg *pgconn.PgError
	if !errors.As(reason, &pg) {
		return false, nil, nil
	}
	switch {
	case o.Type == "POLICY" && (pg.Code == "42704" || pg.Code == "22023"):
		return m.forFewer(ctx, o, reason)
	case o.Type == "OWNER" && pg.Code == "42501" && o.Schema != "":
		return m.lendCreate(ctx, o)
	case o.Type == "CHECK CONSTRAINT" && !Unchecked(o.SQL):
		return m.checkLater(ctx, o, reason)
	}
	return false, nil, nil
}

// forFewer makes a policy for those of its roles that are there. What is left is to name the
// others.
func (m *Maker) forFewer(ctx context.Context, o *progress.Object, reason error) (done bool, left []error, err error) {
	l := policyRoles(o.SQL)
	if l == nil || len(l.names) < 2 {
		return false, nil, nil
	}
	var there []string
	for _, n := range l.names {
		ok, err := m.roleExists(ctx, n)
		if err != nil {
			return false, nil, err
		}
		if ok {
			there = append(there, n)
		}
	}
	if len(there) == 0 || len(there) == len(l.names) {
		return false, nil, nil
	}
	record := progress.FailSQL(o.ID, reason)
	if strings.HasPrefix(o.SQL, "CREATE") {
		// The whole statement stays known, so that a later run of the load does not take the policy
		// for a new one.
		rest := progress.Object{Phase: o.Phase, Type: o.Type, Schema: o.Schema, Table: o.Table, Name: o.Name,
			SQL: l.alter(), Needs: o.Needs}
		if rest.ID, err = m.NewID(); err != nil {
			return false, nil, err
		}
		record = progress.DoneSQL(o.ID) + "; " +
			progress.AddObjectsSQL(m.Stream, []progress.Object{rest}, "done") + "; " +
			progress.FailSQL(rest.ID, reason)
	}
	refused, err := m.try(ctx, l.with(there), record)
	if refused != nil || err != nil {
		return false, nil, err
	}
	return true, []error{reason}, nil
}

// roleExists reports whether the target has a role, whose name is given as it is written in SQL.
func (m *Maker) roleExists(ctx context.Context, token string) (bool, error) {
	name := unquoted(token)
	if !strings.HasPrefix(token, `"`) && noRole[name] {
		return true, nil
	}
	if there, known := m.exists[name]; known {
		return there, nil
	}
	row, err := m.Session.Ask(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = "+progress.Literal(name)+")")
	if err != nil {
		return false, err
	}
	if m.exists == nil {
		m.exists = make(map[string]bool)
	}
	m.exists[name] = row[0] == "t"
	return m.exists[name], nil
}

// lendCreate gives an object to its owner although he may not create in its schema, as on the
// source he need not be able to any more: for the moment he may.
func (m *Maker) lendCreate(ctx context.Context, o *progress.Object) (done bool, left []error, err error) {
	tokens := rules.Tokens(strings.TrimRight(o.SQL, "; \n"))
	if len(tokens) < 3 || !strings.EqualFold(tokens[len(tokens)-3].Text, "OWNER") {
		return false, nil, nil
	}
	on := " CREATE ON SCHEMA " + quote(o.Schema)
	owner := tokens[len(tokens)-1].Text
	sql := "GRANT" + on + " TO " + owner + ";\n" + o.SQL + "\n;REVOKE" + on + " FROM " + owner + ";"
	refused, err := m.try(ctx, sql, progress.DoneSQL(o.ID))
	return refused == nil && err == nil, nil, err
}

// UncheckedPattern matches the end of the definition of a constraint that rows need not pass.
const UncheckedPattern = `NOT (VALID|ENFORCED);?\s*$`

var unchecked = regexp.MustCompile(UncheckedPattern)

// Unchecked reports whether a constraint is one that rows need not pass, from the statement that
// creates it.
func Unchecked(sql string) bool { return unchecked.MatchString(sql) }

// checkLater makes a check that the rows do not pass hold for what is written from now on, as on
// the source, where they have become so. What is left is to have them looked at.
func (m *Maker) checkLater(ctx context.Context, o *progress.Object, reason error) (done bool, left []error, err error) {
	head, constraint, ok := strings.Cut(o.SQL, addConstraint)
	if !ok {
		return false, nil, nil
	}
	tokens := rules.Tokens(constraint)
	if len(tokens) == 0 {
		return false, nil, nil
	}
	rest := progress.Object{Phase: o.Phase, Type: o.Type, Schema: o.Schema, Table: o.Table, Name: o.Name,
		SQL: head + " VALIDATE CONSTRAINT " + tokens[0].Text + ";", Needs: o.Needs}
	if rest.ID, err = m.NewID(); err != nil {
		return false, nil, err
	}
	record := progress.DoneSQL(o.ID) + "; " +
		progress.AddObjectsSQL(m.Stream, []progress.Object{rest}, "done") + "; " +
		progress.FailSQL(rest.ID, reason)
	refused, err := m.try(ctx, head+addConstraint+strings.TrimRight(constraint, "; \n")+" NOT VALID;", record)
	if refused != nil || err != nil {
		return false, nil, err
	}
	return true, []error{reason}, nil
}

// addConstraint is where a statement for a constraint goes on behind the table's name, as pg_dump
// writes it.
const addConstraint = "\n    ADD CONSTRAINT "

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
