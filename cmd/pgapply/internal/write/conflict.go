package write

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

var opNames = map[plan.OpKind]string{plan.OpInsert: "insert", plan.OpUpdate: "update",
	plan.OpDelete: "delete", plan.OpTruncate: "truncate", plan.OpDDL: "ddl"}

// careful writes changes first to next-1 in the open transaction. The target refuses some of them.
// careful splits the range in half until it finds those changes.
func (l *lane) careful(ctx context.Context, g *plan.Group, first, next int32) error {
	if next-first <= 1 {
		if next == first {
			return nil
		}
		return l.one(ctx, g, first)
	}
	mid := (first + next) / 2
	for _, half := range [][2]int32{{first, mid}, {mid, next}} {
		b := l.s.conn.Batch(ctx)
		b.Do("SAVEPOINT pgsluice")
		l.writeRange(b, g, half[0], half[1])
		b.Do("RELEASE SAVEPOINT pgsluice")
		r, err := l.run(b)
		if err != nil {
			return err
		}
		if r.Err == nil {
			continue
		}
		if err := l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice"); err != nil {
			return err
		}
		if err := l.careful(ctx, g, half[0], half[1]); err != nil {
			return err
		}
	}
	return nil
}

// one writes a change and waits for the answer. It handles a conflict according to the policy. If
// it returns an error, the error names the transaction, the table and the key, and the transaction
// has failed.
func (l *lane) one(ctx context.Context, g *plan.Group, i int32) error {
	b := l.s.conn.Batch(ctx)
	keep := l.onConflict != StopOnConflict
	if keep {
		b.Do("SAVEPOINT pgsluice_change")
	}
	l.writeRange(b, g, i, i+1)
	if op, _ := g.Op(i); keep && op.Kind != plan.OpSavepoint {
		b.Do("RELEASE SAVEPOINT pgsluice_change")
	}
	r, err := l.run(b)
	if err != nil || r.Err == nil {
		return err
	}
	cause := r.Err
	if op, _ := g.Op(i); op.Kind == plan.OpTruncate {
		if err := l.unreference(ctx, g.Truncate(op), cause); err != nil {
			return err
		}
	}
	if !keep || !isConflict(cause) {
		return l.conflict(ctx, g, i, cause)
	}
	if err := l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice_change"); err != nil {
		return err
	}
	done := false
	if l.onConflict == Overwrite {
		if done, err = l.overwrite(ctx, g, i); err != nil {
			return err
		}
	}
	action := "skipped"
	switch {
	case done:
		action = "overwritten"
	case l.onConflict == Overwrite && !l.mayStay(g, i):
		return l.conflict(ctx, g, i, cause)
	}
	return l.record(ctx, g, i, action, cause)
}

// The policies for a change that conflicts with the rows of the target.
const (
	StopOnConflict = "error"
	Skip           = "skip"      // leave the target as it is
	Overwrite      = "overwrite" // make the target's row equal to the source's
)

// isConflict reports whether the target refused a change because of the rows that it has or lacks.
func isConflict(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	return pg.Code == "22012" || strings.HasPrefix(pg.Code, "23")
}

// overwrite deletes the rows that have the keys of a change and inserts the change's new row. It
// returns false and changes nothing if that is not possible.
func (l *lane) overwrite(ctx context.Context, g *plan.Group, i int32) (bool, error) {
	op, t := g.Op(i)
	if op.Kind == plan.OpDelete || !canOverwrite(g, i) {
		return false, nil
	}
	b := l.s.conn.Batch(ctx)
	b.Do("SAVEPOINT pgsluice_overwrite")
	remove := func(tuple int32) {
		where, isNull := l.whereOf(g, t, tuple)
		b.Bind(l.s.name(b, t.DeleteAny(isNull)), len(where), binaryIn(g, tuple, where))
		params(b, g, tuple, where)
		b.Execute()
	}
	if op.Old >= 0 {
		remove(op.Old)
	}
	remove(op.New)
	cols := t.InsertColumns()
	b.Bind(l.s.name(b, t.OneInsert()), len(cols), binaryIn(g, op.New, cols))
	params(b, g, op.New, cols)
	b.Execute()
	b.Do("RELEASE SAVEPOINT pgsluice_overwrite")
	r, err := l.run(b)
	if err != nil {
		return false, err
	}
	if r.Err != nil {
		return false, l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice_overwrite")
	}
	return true, nil
}

// canOverwrite reports whether Overwrite knows the whole row that a change produces, and the key by
// which to delete the row in its place.
func canOverwrite(g *plan.Group, i int32) bool {
	op, t := g.Op(i)
	return op.Kind == plan.OpDelete || t.Key != nil && g.Mask(t, op.New, format.Unchanged) == ""
}

// mayStay reports whether the target already is as the change would leave it, because the row to
// delete does not exist.
func (l *lane) mayStay(g *plan.Group, i int32) bool {
	op, _ := g.Op(i)
	return op.Kind == plan.OpDelete
}

// record adds a change that was skipped or overwritten to pgsluice.conflicts.
func (l *lane) record(ctx context.Context, g *plan.Group, i int32, action string, cause error) error {
	b := l.s.conn.Batch(ctx)
	l.writeRecord(b, g, i, action, reason(cause))
	r, err := l.run(b)
	if err != nil {
		return err
	}
	if err := l.s.server.Explain(r.Err); err != nil {
		return fmt.Errorf("could not record in pgsluice.conflicts that a change of %s was %s: %w", transaction(g.CommitLSN(i)), action, err)
	}
	l.conflicts.Add(1)
	return nil
}

// reason describes why a change conflicts.
func reason(cause error) string {
	var pg *pgconn.PgError
	switch {
	case !errors.As(cause, &pg):
		return cause.Error()
	case pg.Code == "22012":
		return "the row is not there"
	}
	return pg.Message
}

func (l *lane) writeRecord(b *pgwire.Batch, g *plan.Group, i int32, action, reason string) {
	op, t := g.Op(i)
	tuple, schema, name, key := op.New, "", "", []int(nil)
	switch {
	case op.Kind == plan.OpSavepoint:
		return
	case t == nil && op.Kind == plan.OpTruncate:
		tuple, schema, name = -1, g.Truncate(op).Tables[0].Schema, g.Truncate(op).Tables[0].Name
	case t == nil:
		tuple, reason = -1, reason+": "+shown(g.DDL(op))
	default:
		schema, name, key = t.Schema, t.Name, t.FindColumns()
	}
	find := op.Old
	if find < 0 {
		find = tuple
	}
	if tuple < 0 {
		tuple = find
	}
	b.Bind(l.s.name(b, `INSERT INTO pgsluice.conflicts (stream_id, lsn, schema_name, table_name, operation, reason, action, key, tuple)
		VALUES ($1::pg_catalog.int4, $2::pg_catalog.pg_lsn, $3, $4, $5, $6, $7, $8::pg_catalog.jsonb, $9::pg_catalog.jsonb)`), 9, nil)
	b.String(strconv.Itoa(int(l.stream)))
	for _, s := range []string{g.CommitLSN(i).String(), schema, name, opNames[op.Kind], reason, action} {
		b.String(s)
	}
	if t == nil {
		b.Null()
		b.Null()
	} else {
		b.Written(func(w io.Writer) { jsonRow(w, g, t, find, key) })
		all := make([]int, len(t.Columns))
		for n := range all {
			all[n] = n
		}
		b.Written(func(w io.Writer) { jsonRow(w, g, t, tuple, all) })
	}
	b.Execute()
}

// writeSkipped records that a group's changes were skipped, and writes none of them.
func (l *lane) writeSkipped(b *pgwire.Batch, g *plan.Group) {
	for i := range int32(g.Len()) {
		l.writeRecord(b, g, i, "skipped", "--skip-lsn")
		l.conflicts.Add(1)
	}
}

// conflict returns the error for a change that the target refused. The transaction has failed.
func (l *lane) conflict(ctx context.Context, g *plan.Group, i int32, cause error) error {
	op, t := g.Op(i)
	if op.Kind == plan.OpDDL {
		e := fault.New(fault.Failed, "could not apply a schema change of %s: %w", transaction(g.CommitLSN(i)), cause)
		if f := (*fault.Error)(nil); errors.As(cause, &f) {
			e.Status = f.Status
			if f.Hint != "" {
				return e.WithDetail("The statement: %s", shown(g.DDL(op))).WithHint("%s", f.Hint)
			}
		}
		return withServer(e, cause).WithDetail("The statement: %s", shown(g.DDL(op))).
			WithHint("Change the target so that the statement succeeds, and start again. Or make all changes of the transaction by hand, and skip it: pgapply --skip-lsn %v",
				g.CommitLSN(i))
	}
	if op.Kind == plan.OpSavepoint {
		return l.s.server.Explain(cause)
	}
	if t == nil {
		names := []string{}
		for _, t := range g.Truncate(op).Tables {
			names = append(names, t.String())
		}
		e := fault.New(fault.Failed, "could not apply truncate of %s of %s: %w", strings.Join(names, ", "),
			transaction(g.CommitLSN(i)), cause)
		if f := (*fault.Error)(nil); errors.As(cause, &f) {
			return e.WithHint("%s", f.Hint)
		}
		return withServer(e, cause)
	}
	e := fault.New(fault.Failed, "could not apply %s to relation %q of %s", opNames[op.Kind], t.String(), transaction(g.CommitLSN(i)))
	find := op.Old
	if find < 0 {
		find = op.New
	}
	if errors.Is(cause, errKeyNotSent) {
		return l.keyNotSent(e, t, unsent(g, t, find))
	}
	key := l.describeKey(g, t, find)
	const who = "Another session has written to the target, or changes are missing."
	var pg *pgconn.PgError
	if !errors.As(cause, &pg) {
		pg = new(pgconn.PgError)
	}
	switch {
	case pg.Code == "22012":
		switch n := l.meets(ctx, g, t, find); {
		case n == 0:
			e.Err = fmt.Errorf("%w: there is no row with %s", e.Err, key)
		default:
			e.Err = fmt.Errorf("%w: there are %d rows with %s", e.Err, n, key)
		}
		return e.WithHint("%s %s%s", who, l.lookAt(g, t, find), l.goOn(g, i, true))
	// If an update keeps its key, the duplicate is in another unique key.
	case pg.Code == "23505" && (op.Kind == plan.OpInsert || op.Old >= 0) && l.meets(ctx, g, t, op.New) > 0:
		e.Err = fmt.Errorf("%w: a row with %s exists already: %w", e.Err, l.describeKey(g, t, op.New), cause)
		return withServer(e, cause).WithHint("%s %s%s", who, l.lookAt(g, t, op.New), l.goOn(g, i, true))
	case pg.Code == "23505":
		e.Err = fmt.Errorf("%w, row with %s: another row of the target has the same unique values: %w", e.Err, key, cause)
		return withServer(e, cause).
			WithHint("%s Correct or delete that other row on the target, and start again. %s", who,
				l.goOn(g, i, false))
	}
	e.Err = fmt.Errorf("%w, row with %s: %w", e.Err, key, cause)
	e = withServer(e, cause)
	if e.Hint == "" && strings.HasPrefix(pg.Code, "22") {
		e.Hint = fmt.Sprintf("If a type has changed on the source, change it on the target, too (ALTER TABLE %s ALTER COLUMN … TYPE …, or ALTER TYPE …), and start again.",
			text.Ident(t.Schema, t.Name))
	}
	return e
}

// keyNotSent completes the error for an update whose key the source has left out. Another row could
// have the key without these columns, so no policy can help.
func (l *lane) keyNotSent(e *fault.Error, t *plan.Table, columns []string) *fault.Error {
	e.Err = fmt.Errorf("%w: %w (%s)", e.Err, errKeyNotSent, strings.Join(columns, ", "))
	return e.WithDetail("PostgreSQL 9.6, and PostgreSQL before 10.20, 11.15, 12.10, 13.6 and 14.2, leaves out a long key that an update does not change.").
		WithHint("Load the table again, which leaves out older changes of it: pgextract --slot %s --table %s --reload | pgapply. To prevent this, install a newer minor version on the source. Or, there, once sync has caught up: ALTER TABLE %s REPLICA IDENTITY FULL;",
			text.Shell(l.slot), shellPattern(t.Relation), text.Ident(t.Relation.Schema, t.Relation.Name))
}

// lookAt returns a query for the row that a tuple finds, or "" if the query would be too long.
func (l *lane) lookAt(g *plan.Group, t *plan.Table, tuple int32) string {
	var where []string
	long := 0
	for _, i := range t.FindColumns() {
		name := text.Ident(t.Columns[i].Name)
		switch kind, v := g.Value(tuple, i); kind {
		case format.Null:
			where = append(where, name+" IS NULL")
		case format.Text:
			equal := t.Columns[i].Equal.SQL
			if equal == "" {
				name, equal = "concat("+name+")", "="
			}
			where = append(where, name+" "+equal+" "+text.Literal(string(v)))
			long += len(v)
		default:
			return ""
		}
	}
	if long > 200 || len(where) == 0 || len(where) > 8 {
		return ""
	}
	source, place := "", text.Ident(t.Schema, t.Name)
	if t.Root != nil {
		place = text.Ident(t.Root.Schema, t.Root.Name)
	}
	if t.Schema != t.Relation.Schema || t.Name != t.Relation.Name {
		source = fmt.Sprintf(" (%s on the source)", text.Ident(t.Relation.Schema, t.Relation.Name))
	}
	return fmt.Sprintf("Compare both sides: SELECT * FROM %s WHERE %s%s. ", place, strings.Join(where, " AND "), source)
}

// goOn says how to continue without resolving a conflict. It names another policy if one can help.
// byKey is false if the conflicting row does not have the change's key: Overwrite replaces only
// rows with that key.
func (l *lane) goOn(g *plan.Group, i int32, byKey bool) string {
	policy, why := "pgapply --on-conflict skip, or ", ""
	_, t := g.Op(i)
	reload := fmt.Sprintf("pgextract --slot %s --table %s --reload | pgapply", text.Shell(l.slot), shellPattern(t.Relation))
	switch {
	case l.onConflict == Skip:
		policy = "pgapply "
	case l.onConflict == Overwrite && byKey && !canOverwrite(g, i):
		why = "It cannot be overwritten: no key finds the row. "
		if t.Key != nil {
			why = fmt.Sprintf("It cannot be overwritten: the source has not sent the whole row, but left out large values that did not change. To load the table again, while sync is stopped: %s. ", reload)
		}
	case l.onConflict != Overwrite && byKey && canOverwrite(g, i):
		policy = "pgapply --on-conflict skip (or overwrite), or "
	}
	// After a reload, older changes of the table are left out, this one as well.
	return fmt.Sprintf("%sTo continue without correcting it: %swithout the whole transaction: --skip-lsn %v. "+
		"If pgcutover status names the table, because it had no key for a time or was not published, load it again instead: %s",
		why, policy, g.CommitLSN(i), reload)
}

// transaction names a transaction by its commit LSN, which is 0 while it is in progress.
func transaction(commit format.LSN) string {
	if commit == 0 {
		return "a transaction in progress"
	}
	return fmt.Sprintf("the transaction with commit LSN %v", commit)
}

// withServer adds the server's own detail and hint to an error.
func withServer(e *fault.Error, cause error) *fault.Error {
	var pg *pgconn.PgError
	if errors.As(cause, &pg) {
		e.Detail, e.Hint = pg.Detail, pg.Hint
	}
	return e
}

// meets rolls the transaction back and counts the rows that a change finds now. It returns −1 if it
// cannot count them.
func (l *lane) meets(ctx context.Context, g *plan.Group, t *plan.Table, tuple int32) int {
	if l.undo(ctx, "ROLLBACK") != nil || len(unsent(g, t, tuple)) > 0 {
		return -1
	}
	where, isNull := l.whereOf(g, t, tuple)
	b := l.s.conn.Batch(ctx)
	b.Bind(l.s.name(b, t.CountKey(isNull)), len(where), binaryIn(g, tuple, where))
	params(b, g, tuple, where)
	b.Execute()
	r, err := l.run(b)
	if err != nil || r.Err != nil || len(r.Row) != 1 {
		return -1
	}
	n, _ := strconv.Atoi(r.Row[0])
	return n
}

// describeKey formats the values that find a row as PostgreSQL does: (id, part)=(42, x).
func (l *lane) describeKey(g *plan.Group, t *plan.Table, tuple int32) string {
	var names, values []string
	for _, i := range t.FindColumns() {
		names = append(names, t.Columns[i].Name)
		kind, v := g.Value(tuple, i)
		switch {
		case kind == format.Null:
			values = append(values, "null")
		case kind == format.Binary:
			values = append(values, fmt.Sprintf("\\x%x", v[:min(len(v), 40)]))
		case len(v) > 80:
			n := 80
			for n > 0 && !utf8.RuneStart(v[n]) {
				n--
			}
			values = append(values, string(v[:n])+"…")
		default:
			values = append(values, string(v))
		}
	}
	return "(" + strings.Join(names, ", ") + ")=(" + strings.Join(values, ", ") + ")"
}
