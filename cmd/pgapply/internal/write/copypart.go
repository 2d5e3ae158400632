package write

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// errIncomplete is the error of a part whose end has not arrived.
var errIncomplete = errors.New("the part was not completed")

// Drop discards the parts that a cut stream has left incomplete, and waits for the complete ones.
// It returns an error if a complete part could not be committed.
func (l *Loader) Drop() error {
	for n, p := range l.parts {
		close(p.chunks)
		delete(l.parts, n)
	}
	l.lobs.close()
	l.copying.Wait()
	return l.failure()
}

// copyPart copies a part and records it in pgsluice.parts, in one transaction.
func (l *Loader) copyPart(p *part) (err error) {
	s, err := l.acquire()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("load %v: %w", p.table, checked(p.table, err))
		}
	}()
	t := p.table
	t.once.Do(func() { t.err = l.prepare(s, p) })
	if t.err != nil {
		return t.err
	}
	if err := s.conn.StartCopyIn(l.ctx, copyStatement(p)); err != nil {
		return l.Server.Explain(err)
	}
	for c := range p.chunks {
		if err := l.write(s, c); err != nil {
			return err
		}
	}
	if p.end == nil {
		return errIncomplete
	}
	n, err := s.conn.EndCopy(l.ctx, "")
	if err != nil {
		return l.Server.Explain(err)
	}
	if uint64(n) != p.end.Rows {
		return fault.New(fault.Data,
			"part %d of %d has %d rows according to the stream, but the target counted %d", p.Index, p.Of,
			p.end.Rows, n)
	}
	copied, err := l.finishPart(s, p)
	if err != nil {
		return err
	}
	l.release(s)
	p.meter.Done()
	l.mu.Lock()
	l.rows += p.end.Rows
	l.bytes += p.end.Bytes
	l.mu.Unlock()
	if copied && t.tree == nil {
		l.builder.table(t.names(), p.Of == 1 && p.end.Bytes < small)
	}
	return nil
}

// copyStatement returns the statement that begins a transaction and copies a part.
func copyStatement(p *part) string {
	t := p.table
	begin, sql := "BEGIN; ", "COPY "+t.tree.or(t.qualified())
	if len(p.Columns) > 0 {
		cols := make([]string, len(p.Columns))
		for i, c := range p.Columns {
			cols[i] = plan.QuoteIdent(c)
		}
		sql += " (" + strings.Join(cols, ", ") + ")"
	}
	sql += " FROM STDIN"
	var options []string
	if p.Format == format.CopyBinary {
		options = append(options, "FORMAT binary")
	}
	if t.freeze {
		// Frozen rows need no vacuum later. The server allows FREEZE for a table that this
		// transaction has emptied.
		options = append(options, "FREEZE")
		begin += "TRUNCATE ONLY " + t.qualified() + "; "
	}
	if len(options) > 0 {
		sql += " WITH (" + strings.Join(options, ", ") + ")"
	}
	return begin + sql
}

// checked adds a hint to the error for a row that no partition of the target accepts, and to the
// error of a function that relies on the search path.
func checked(t *loadTable, err error) error {
	var f *fault.Error
	var pg *pgconn.PgError
	if errors.As(err, &f) && errors.As(err, &pg) && pg.Code == "23514" && pg.ConstraintName == "" && f.Hint == "" {
		return f.WithHint("The target's partitions, or their bounds, differ from the source's. Compare the bounds, and correct them so that each row has a partition: SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass, on both sides.",
			text.Literal(text.Ident(t.schema, t.name)))
	}
	if name := progress.Function(err); errors.As(err, &f) && name != "" {
		return f.WithHint("Function %s relies on the search path, which is empty here. On both sides: ALTER FUNCTION %[1]s SET search_path = pg_catalog, …, with the schemas of the objects that it uses; pgcutover check prints the statement.", name)
	}
	return err
}

// where returns the condition for a table's rows in schema pgsluice.
func (l *Loader) where(t *loadTable) string {
	return fmt.Sprintf("stream_id = %d AND schema_name = %s AND table_name = %s", l.Stream.ID,
		progress.Literal(t.schema), progress.Literal(t.name))
}

// finishPart records and commits a part. It reports whether the part was the table's last one.
func (l *Loader) finishPart(s *session, p *part) (copied bool, err error) {
	t, where := p.table, l.where(p.table)
	b := s.conn.Batch(l.ctx)
	b.Do(fmt.Sprintf("INSERT INTO pgsluice.parts (stream_id, schema_name, table_name, part, of, snapshot_lsn, rows, bytes) VALUES (%d, %s, %s, %d, %d, '%v', %d, %d)",
		l.Stream.ID, progress.Literal(t.schema), progress.Literal(t.name), p.Index, p.Of, p.SnapshotLSN, p.end.Rows, p.end.Bytes))
	// Lock the table's row. Parts that end at the same time must see each other, or none would see
	// that the table is complete.
	b.Do("SELECT FROM pgsluice.tables WHERE " + where + " FOR UPDATE")
	// This divides by zero if another process has restarted the table from another snapshot.
	b.Do("SELECT 1 / pg_catalog.count(*) FROM pgsluice.tables WHERE " + where + " AND snapshot = " + progress.Literal(l.Snapshot))
	b.Do(fmt.Sprintf(`UPDATE pgsluice.tables SET rows = rows + %d, bytes = bytes + %d, copying_rows = greatest(copying_rows - %[1]d, 0), copying_bytes = greatest(copying_bytes - %[2]d, 0),
		status = CASE WHEN (SELECT pg_catalog.count(*) FROM pgsluice.parts WHERE %[3]s) = parts THEN 'copied' ELSE status END,
		copied_at = CASE WHEN (SELECT pg_catalog.count(*) FROM pgsluice.parts WHERE %[3]s) = parts THEN pg_catalog.clock_timestamp() END
		WHERE %[3]s RETURNING status`, p.end.Rows, p.end.Bytes, where))
	b.Do("COMMIT")
	r, err := b.Run()
	if err == nil {
		err = r.Err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "23505" || pg.Code == "22012") {
		return false, l.loadedMeanwhile(t)
	}
	if err != nil {
		return false, l.Server.Explain(err)
	}
	return len(r.Row) == 1 && r.Row[0] == "copied", nil
}

func (l *Loader) loadedMeanwhile(t *loadTable) error {
	return fault.New(fault.TryAgain, "another process is loading or has loaded table %q",
		t.String()).WithHint("Start again with pgextract --resume, which skips what has been loaded.")
}

// prepare makes a table ready for its first part in this run.
func (l *Loader) prepare(s *session, p *part) error {
	t, where := p.table, l.where(p.table)
	if err := l.notCreated(t); err != nil {
		return err
	}
	if l.mustMatch(p) {
		if err := t.same(len(l.Mapper.Rename) > 0); err != nil && l.Reload {
			return err.WithHint("If changes of the source's schema are recorded, run sync, which repeats them. Otherwise: %s", err.Hint)
		} else if err != nil {
			return err
		}
	}
	if err := t.fits(p, l.ByHand); err != nil {
		return err
	}
	if t.tree != nil {
		if err := t.tree.prepare(l, s); err != nil {
			return err
		}
	}
	// Other processes may load other parts of the table.
	row, err := s.ask(l.ctx, "BEGIN", "SELECT FROM pgsluice.tables WHERE "+where+" FOR UPDATE",
		"SELECT status, coalesce(snapshot, ''), parts, (SELECT pg_catalog.count(*) FROM pgsluice.parts WHERE "+
			where+") FROM pgsluice.tables WHERE "+where)
	if err != nil {
		return err
	}
	if len(row) != 4 {
		return fmt.Errorf("table %v has no row in pgsluice.tables", t)
	}
	status, snapshot, of, done := progress.TableState{Status: row[0]}, row[1], row[2], row[3]
	switch {
	case snapshot == l.Snapshot && (row[0] == "loading" || row[0] == "error") && of == strconv.FormatUint(p.Of, 10):
		return s.exec(l.ctx, "ROLLBACK") // the table has been begun already; the rest follows
	case status.Complete() && (snapshot == l.Snapshot || !l.Reload):
		return l.loadedMeanwhile(t)
	case t.tree != nil:
		if done != "0" { // after the tree was prepared
			return l.loadedMeanwhile(t)
		}
	case done != "0" || l.Reload && status.Complete():
		// Parts from different snapshots do not fit together.
		if err := l.empty(s, t); err != nil {
			return err
		}
	default:
		// Query the table only now. A process that copies the table may hold its lock, and need the
		// row that this session has locked.
		row, err := s.ask(l.ctx, "SELECT EXISTS (SELECT 1 FROM ONLY "+t.qualified()+" "+t.target.Condition+")")
		if err != nil {
			return err
		}
		if row[0] == "t" {
			e := fault.New(fault.Config, "table %q on the target has rows already", t.String())
			if l.Reload {
				e.Detail = "They were not loaded from this source, so that they are not emptied either."
			}
			return e.WithHint("Empty it (TRUNCATE %s on the target), or leave it out.", text.Ident(t.schema, t.name))
		}
	}
	t.freeze = !l.Stream.Citus && t.tree == nil && p.Of == 1 && p.Bytes >= freezeMin && t.target.Kind == "r" &&
		t.target.Condition == "" && !t.target.Referenced
	return s.exec(l.ctx, fmt.Sprintf(`UPDATE pgsluice.tables SET status = 'loading', source_oid = %d, snapshot = %s, snapshot_lsn = '%v', counted = nullif(%s, ''), parts = %d, rows = 0, bytes = 0, copying_rows = 0, copying_bytes = 0,
		started_at = pg_catalog.clock_timestamp(), copied_at = NULL, loaded_at = NULL, error = NULL WHERE %s;
		UPDATE pgsluice.streams SET load_status = 'loading' WHERE stream_id = %d AND load_status <> 'loading'; COMMIT`,
		t.rel.ID, progress.Literal(l.Snapshot), p.SnapshotLSN, progress.Literal(t.rel.Counted), p.Of, where, l.Stream.ID))
}

// empty removes a table's rows in the caller's transaction. From an extension's configuration
// table, it removes only the user's rows.
func (l *Loader) empty(s *session, t *loadTable) error {
	sql := "TRUNCATE ONLY " + t.qualified()
	if t.target.Condition != "" || t.target.Referenced {
		sql = "DELETE FROM ONLY " + t.qualified() + " " + t.target.Condition
	}
	return s.exec(l.ctx, sql+"; DELETE FROM pgsluice.parts WHERE "+l.where(t))
}

// freezeMin is the size from which freezing rows is worth a truncate.
const freezeMin = 1 << 20
