package write

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// without reports whether the load may continue without a table that could not be loaded. If so,
// without records the reason. An error of one table says nothing about the others. An error of the
// connection, the server or the stream does.
func (l *Loader) without(t *loadTable, err error) bool {
	var f *fault.Error
	var pg *pgconn.PgError
	switch {
	case l.ctx.Err() != nil:
		return false
	case errors.As(err, &pg):
		if !objects.Refused(err) {
			return false
		}
	case !errors.As(err, &f) || f.Status != fault.Config:
		return false
	}
	s, e := l.acquire()
	if e != nil {
		return false
	}
	e = s.exec(l.ctx, fmt.Sprintf("UPDATE pgsluice.tables SET status = 'error', error = %s WHERE %s AND status IN ('queued', 'loading', 'error')",
		progress.Literal(err.Error()), l.where(t)))
	if e != nil {
		s.close()
		return false
	}
	l.release(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.refused == nil {
		t.refused = err
		l.refused = append(l.refused, t)
		l.Log.Warn(fmt.Sprintf("%v; the load continues without it", err))
	}
	return true
}

// notCreated returns why a table could not be created on the target, or nil if it exists.
func (l *Loader) notCreated(t *loadTable) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if why := l.whyLost[[2]string{t.schema, t.name}]; t.target == nil && why != nil {
		return fault.New(fault.Failed, "could not create table %v on the target: %w", t, why)
	}
	return nil
}

// hopeless returns an error if none of the tables could be created, because nothing is left to
// load.
func (l *Loader) hopeless() error {
	if len(l.lost) == 0 || len(l.tables) == 0 {
		return nil
	}
	for _, t := range l.tables {
		if t.target != nil {
			return nil
		}
	}
	failed, err := progress.Failed(l.ctx, l.Control, l.Stream.ID)
	if err != nil {
		return l.Server.Explain(err)
	}
	causes, err := objects.Causes(l.ctx, l.Control, failed)
	if err != nil {
		return l.Server.Explain(err)
	}
	each, remedies := objects.Text(causes)
	e := fault.New(fault.Failed, "none of the tables could be created on the target").WithDetail("%s", each)
	if remedies == "" {
		return e.WithHint("Correct the causes, then start again with pgextract --resume.")
	}
	return e.WithHint("On the target, as a role that may do so: %s Then start again with pgextract --resume.", remedies)
}

// isRefused reports whether the load continues without a table.
func (l *Loader) isRefused(t *loadTable) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return t.refused != nil
}

// Refused returns an error that names the tables that could not be loaded, or nil if there are
// none. resume is the command that loads the missing rows.
func (l *Loader) Refused(resume string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refused) == 0 {
		return nil
	}
	list := make([]*format.Relation, len(l.refused))
	for i, t := range l.refused {
		list[i] = t.rel
	}
	switch {
	case l.Stream.Key.Slot == "":
		resume = only(list...) + ", from a newer snapshot than that of the other tables"
	case l.Reload: // the target has the tables, with the rows of the earlier load
		resume = again(l.Stream.Key.Slot, list)
	}
	status, detail, hint := fault.StatusOf(l.refused[0].refused), "", "Correct the cause, then: "+resume+"; what is loaded already is skipped."
	var f *fault.Error
	for i, t := range l.refused {
		if fault.StatusOf(t.refused) != status {
			status = fault.Failed
		}
		if i > 0 {
			detail += "\n"
		}
		detail += text.Escape(t.refused.Error())
		if errors.As(t.refused, &f) && f.Detail != "" {
			detail += " (" + text.Escape(f.Detail) + ")"
		}
	}
	if drop := dropCheck(l.refused); drop != "" {
		hint = "The next run drops their check constraints, and creates them again after all rows are loaded: " + resume +
			". If the role may not drop them, on the target: " + drop +
			" then the same command, and create the constraint again after the load."
	} else if errors.As(l.refused[0].refused, &f) && f.Hint != "" {
		hint = f.Hint + " Then: " + resume
	}
	return fault.New(status, "%s could not be loaded; all others are", count.Of(len(l.refused), "table")).
		WithDetail("%s", detail).WithHint("%s", hint)
}

// dropCheck returns the statements that drop the checks that rows failed. It returns "" if any
// table was refused for another reason.
func dropCheck(tables []*loadTable) (sql string) {
	seen := make(map[string]bool)
	for _, t := range tables {
		var pg *pgconn.PgError
		if !errors.As(t.refused, &pg) || pg.Code != "23514" || pg.ConstraintName == "" {
			return ""
		}
		drop := "ALTER TABLE " + text.Ident(pg.SchemaName, pg.TableName) + " DROP CONSTRAINT " + text.Ident(pg.ConstraintName) + "; "
		if pg.DataTypeName != "" {
			drop = "ALTER DOMAIN " + text.Ident(pg.SchemaName, pg.DataTypeName) + " DROP CONSTRAINT " + text.Ident(pg.ConstraintName) + "; "
		}
		if !seen[drop] {
			seen[drop] = true
			sql += drop
		}
	}
	return sql
}
