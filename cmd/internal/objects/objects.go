// Package objects creates the schema objects recorded in pgsluice.deferred. If the server refuses
// an object, the package tries its statements one by one, so that a missing role costs only the
// statement that names it. The package records failures with their first cause, retries them, and
// groups them by cause.
package objects

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// A Session executes statements on the target.
type Session interface {
	// Exec sends statements as one query and returns the first error. A GRANT or REVOKE that had no
	// effect counts as an error, although the server only warns of it.
	Exec(ctx context.Context, sql string) error
	// Ask returns the values of the only row of a query's result.
	Ask(ctx context.Context, sql string) ([]string, error)
}

// Refused reports whether an error means that the server refused the statement, and not that the
// session is broken.
func Refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (!pgdial.Lost(err) || pg.Code == pgdial.OutOfLocks)
}

// Execute executes statements in one transaction, together with the statement that records it.
// After an error, the transaction is still open.
func Execute(ctx context.Context, s Session, sql, record string) error {
	if err := s.Exec(ctx, "BEGIN; SET LOCAL client_min_messages = warning;\n"+sql+"\n;"+record); err != nil {
		return err
	}
	return s.Exec(ctx, "COMMIT")
}

// A Maker creates objects of one stream in a session.
type Maker struct {
	Session Session
	Stream  int32
	NewID   func() (int64, error) // for a row of pgsluice.deferred

	// Citus says that the target belongs to a Citus cluster.
	Citus bool

	exists    map[string]bool // roles
	patiently func(do func() error) error
}

// try runs Execute and rolls back if it fails. refused is the server's objection to the statements.
// err is any other error.
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
	if m.Citus {
		sql = citus.Alone(sql)
	}
	refused = Execute(ctx, m.Session, sql, record)
	if refused == nil {
		return nil, nil
	}
	if !Refused(refused) || ctx.Err() != nil {
		return nil, refused
	}
	return refused, m.Session.Exec(ctx, "ROLLBACK")
}

// Settle handles an object recorded in pgsluice.deferred that the server refused for a reason. It
// does what can still be done and records the rest as failed. It returns the remaining errors, and
// an error if handling the object failed.
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

// lost reports whether an object that this one needs could not be created. Then none of its
// statements can succeed.
func (m *Maker) lost(ctx context.Context, o *progress.Object) (bool, error) {
	if len(o.Needs) == 0 {
		return false, nil
	}
	row, err := m.Session.Ask(ctx, progress.AnyFailedSQL(o.Needs))
	return err == nil && row[0] == "t", err
}

// each executes the statements of an object one by one. Each failed statement gets its own row.
func (m *Maker) each(ctx context.Context, o *progress.Object, list []unit) (left []error, err error) {
	var failed []progress.Object
	var reasons []error
	some := false // whether any statement succeeded
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
	if len(failed) == 1 && !some { // keep the original row
		return reasons, m.Session.Exec(ctx, progress.FailSQL(o.ID, reasons[0]))
	}
	// Write the rows only now. If the process is interrupted before, the next run repeats all
	// statements, which is harmless.
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

// instead replaces a refused statement by one that does the same as far as possible, if there is
// one.
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
	case o.Type == "INDEX ATTACH":
		return m.asOwner(ctx, o)
	case o.Type == "CHECK CONSTRAINT" && !Unchecked(o.SQL):
		return m.checkLater(ctx, o, reason)
	}
	return false, nil, nil
}

// forFewer creates a policy for those of its roles that exist. The remaining statement adds the
// missing roles.
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
		// Keep the original statement, so that a later run of the load does not take the policy for
		// a new one.
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

// roleExists reports whether the target has a role. token is the role's name as written in SQL.
func (m *Maker) roleExists(ctx context.Context, token string) (bool, error) {
	name := sqltext.Unquoted(token)
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

// UncheckedPattern matches the end of a constraint definition that existing rows need not satisfy.
const UncheckedPattern = `NOT (VALID|ENFORCED);?\s*$`

var unchecked = regexp.MustCompile(UncheckedPattern)

// Unchecked reports whether existing rows need not satisfy a constraint, given the statement that
// creates it.
func Unchecked(sql string) bool { return unchecked.MatchString(sql) }

// checkLater creates a check constraint as NOT VALID if existing rows violate it, so that it holds
// for new rows. On the source, the rows came to violate it after it was created. The remaining
// statement validates the constraint.
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

// addConstraint is what pg_dump writes between the table's name and the constraint.
const addConstraint = "\n    ADD CONSTRAINT "

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
