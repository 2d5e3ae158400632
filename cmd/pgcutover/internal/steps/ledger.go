package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// ledger compares what the source has with what the target has, and returns what is missing or
// otherwise. Nothing can be said before the load is complete: then compared is false.
func (m *Migration) ledger(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream) (lines []ledger.Line, compared bool, err error) {
	if stream.LoadStatus == "loading" {
		return nil, false, nil
	}
	in := ledger.Input{ByHand: stream.ByHand || stream.LoadStatus == "none", Selected: !stream.Whole && stream.LoadStatus == "loaded",
		WithoutOwners: slices.Contains(stream.Without, format.WithoutOwners),
		WithoutRights: slices.Contains(stream.Without, format.WithoutRights), Ended: stream.Ended,
		Role: make(map[string]bool)}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		in.Source, err = inventory.Read(gctx, c)
		return m.Source.Explain(err)
	})
	g.Go(func() (err error) {
		in.Target, err = inventory.Read(gctx, t)
		return m.Target.Explain(err)
	})
	if err := g.Wait(); err != nil {
		return nil, false, err
	}
	if err := m.remembered(ctx, t, stream, &in); err != nil {
		return nil, false, m.Target.Explain(err)
	}
	if err := c.QueryRow(ctx, "SELECT pg_catalog.quote_ident(current_user)").Scan(&in.SourceRole); err != nil {
		return nil, false, m.Source.Explain(err)
	}
	in.OldRights = pgdial.Version(c.PgConn()) < 170000 || pgdial.Version(t.PgConn()) < 170000
	lines = ledger.Compare(in)
	if lines, err = m.notCarried(ctx, c, t, stream, lines); err != nil {
		return nil, false, err
	}
	allowed, err := progress.Allowed(ctx, t, stream.ID)
	if err != nil {
		return nil, false, m.Target.Explain(err)
	}
	for i := range lines {
		lines[i].Allowed = allowed[lines[i].ID]
	}
	return lines, true, nil
}

// remembered adds what the target knows of the migration.
func (m *Migration) remembered(ctx context.Context, t *pgx.Conn, stream *progress.Stream, in *ledger.Input) (err error) {
	if in.Failed, err = progress.Failed(ctx, t, stream.ID); err != nil {
		return err
	}
	onTarget := make(map[inventory.Key]string)
	if err := progress.Fingerprints(ctx, t, stream.ID, func(side string, p *progress.Fingerprint) {
		k := inventory.Key{Class: p.Class, Schema: p.Schema, Table: p.Table, Name: p.Name}
		switch {
		case side == "target":
			onTarget[k] = p.Definition
		case in.Baseline == nil:
			in.Baseline = make(map[inventory.Key]ledger.Baseline)
			fallthrough
		default:
			in.Baseline[k] = ledger.Baseline{Definition: p.Definition, Facts: p.Facts}
		}
	}); err != nil {
		return err
	}
	if !stream.Ended {
		for _, phase := range []progress.Phase{progress.PhaseCutover, progress.PhaseFinish} {
			list, err := progress.Pending(ctx, t, stream.ID, phase, "", "")
			if err != nil {
				return err
			}
			for _, o := range list {
				if o.Error == "" {
					in.Pending = append(in.Pending, o)
				}
			}
		}
	}
	if in.Renames, _, err = m.renames(ctx, t, stream.ID); err != nil {
		return err
	}
	for k, b := range in.Baseline {
		b.Target = onTarget[in.Renames.Key(k)]
		in.Baseline[k] = b
	}
	if in.Baseline == nil { // of an older program's load, or a filter has dropped it
		in.Selected = false
	}
	rows, err := t.Query(ctx, "SELECT pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles")
	if err != nil {
		return err
	}
	var role string
	if _, err := pgx.ForEachRow(rows, []any{&role}, func() error { in.Role[role] = true; return nil }); err != nil {
		return err
	}
	return t.QueryRow(ctx, "SELECT pg_catalog.quote_ident(current_user), pg_catalog.current_database()").Scan(&in.TargetRole, &in.Database)
}

// notCarried adds the tables whose changes do not reach the target.
func (m *Migration) notCarried(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream, lines []ledger.Line) ([]ledger.Line, error) {
	tables, err := progress.Tables(ctx, t, stream.ID)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	if stream.Ended || stream.Key.Slot == "" {
		return lines, nil
	}
	list, err := m.carried(ctx, c, t, stream, tables)
	if err != nil {
		return nil, err
	}
	missing, uncarried, _ := sorted(list)
	m.lacking = missing
	lineOf := make(map[TableName]int)
	for i := range lines {
		if schema, table, ok := lines[i].Table(); ok && lines[i].Problem == "missing" {
			lineOf[TableName{Schema: schema, Table: table}] = i
		}
	}
	for _, n := range missing {
		_, remedy := m.missingText([]TableName{n})
		i, ok := lineOf[n]
		if !ok {
			line := ledger.NotCarried(n.Schema, n.Table)
			line.Cause = "it has never been loaded"
			lines = append(lines, line)
			i = len(lines) - 1
		}
		lines[i].Remedy, lines[i].SQL = remedy, []string{}
	}
	for len(uncarried) > 0 { // in the order of tables
		n := 1
		for n < len(uncarried) && uncarried[n].TableName == uncarried[0].TableName {
			n++
		}
		line := ledger.NotCarried(uncarried[0].Schema, uncarried[0].Table)
		says := make([]string, n)
		for i, u := range uncarried[:n] {
			says[i] = u.Says
		}
		line.Cause = strings.Join(says, "; ")
		_, line.Remedy = m.uncarriedText(uncarried[:n])
		lines, uncarried = append(lines, line), uncarried[n:]
	}
	return lines, nil
}

// settled is ledger, looked at again for some seconds while there is something that may still be on
// its way: a statement that sync is about to execute.
func (m *Migration) settled(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream) (lines []ledger.Line, compared bool, err error) {
	const tries = 3
	for try := 1; ; try++ {
		if lines, compared, err = m.ledger(ctx, c, t, stream); err != nil || len(ledger.Blocking(lines)) == 0 || try == tries {
			return lines, compared, err
		}
		if applied, err := progress.IsApplied(ctx, t, stream.ID); err != nil || !applied || stream.Ended {
			return lines, compared, m.Target.Explain(err)
		}
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// requireNothingMissing refuses to go on while the ledger is not empty. What is named in allow may
// stay as it is from now on.
func (m *Migration) requireNothingMissing(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream,
	allow []string, patience time.Duration) error {
	if _, err := m.retry(ctx, t, stream.ID, true, patience); err != nil {
		return err
	}
	lines, _, err := m.settled(ctx, c, t, stream)
	if err != nil {
		return err
	}
	if err := m.allow(ctx, t, stream, lines, allow); err != nil {
		return err
	}
	left := ledger.Blocking(lines)
	if len(left) == 0 {
		return nil
	}
	return m.refusal(left)
}

// requireAllCreated refuses to remove the state of a migration as long as it has the only list of
// what is still to be created on the target.
func (m *Migration) requireAllCreated(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream) error {
	for _, phase := range []progress.Phase{progress.PhaseCutover, progress.PhaseFinish} {
		list, err := progress.Pending(ctx, t, stream.ID, phase, "", "")
		if err != nil {
			return m.Target.Explain(err)
		}
		for _, o := range list {
			if o.Error == "" {
				return fault.New(fault.Config, "the cutover is not finished: %v is still to be created on the target", &o).
					WithHint("First: pgcutover finish --slot %[1]s. To remove the record of it all the same: pgcutover cleanup --slot %[1]s --force", m.Slot)
			}
		}
	}
	failed, err := progress.Failed(ctx, t, stream.ID)
	if err != nil || len(failed) == 0 {
		return m.Target.Explain(err)
	}
	lines, _, err := m.ledger(ctx, c, t, stream)
	if err != nil {
		return err
	}
	left := ledger.Blocking(lines)
	if len(left) == 0 {
		return nil
	}
	e := m.refusal(left)
	e.Hint += fmt.Sprintf(". To remove the list all the same: pgcutover cleanup --slot %s --force", m.Slot)
	return e
}

func (m *Migration) refusal(left []ledger.Line) *fault.Error {
	names := make([]string, len(left))
	for i, l := range left {
		names[i] = text.Sprintf("%s  %s %s: %s", l.ID, l.Kind, l.Name, l.Cause)
	}
	const most = 20
	detail := strings.Join(names[:min(most, len(names))], "\n")
	if n := len(names) - most; n > 0 {
		detail += fmt.Sprintf("\nand %s", count.Of(n, "other"))
	}
	return fault.New(fault.Config, "the target lacks %s of the source, or has %s otherwise",
		count.Of(len(left), "object"), count.Word(len(left), "it", "them")).WithDetail("%s", detail).
		WithHint("pgcutover missing --slot %s says what to do about each, and --sql prints the statements. What may stay as it is: --allow-missing ID", m.Slot)
}

// allow records the lines with these ids as allowed, and marks them.
func (m *Migration) allow(ctx context.Context, t *pgx.Conn, stream *progress.Stream, lines []ledger.Line, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	record := make(map[string]string)
	for i := range lines {
		if l := &lines[i]; slices.Contains(ids, l.ID) {
			l.Allowed = true
			record[l.ID] = fmt.Sprintf("%s %s: %s", l.Kind, l.Name, l.Cause)
			m.Log.Warn(text.Sprintf("allowed to stay so: %s %s: %s", l.Kind, l.Name, l.Cause))
		}
	}
	for _, id := range ids {
		if record[id] == "" {
			m.Log.Info(fmt.Sprintf("--allow-missing %s: nothing of that id is missing", id))
		}
	}
	return m.Target.Explain(progress.Allow(ctx, t, stream.ID, record))
}

// Missing prints what the target lacks of the source, or has otherwise; it fails with status Failed
// if there is something that is not allowed. With again it first tries to create what the load
// could not, where that reads no rows.
func (m *Migration) Missing(ctx context.Context, as string, again bool, allow []string) error {
	t, err := m.target(ctx)
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	stream, err := m.stream(ctx, t)
	if err != nil {
		return err
	}
	c, err := m.sourceOf(ctx, t, stream)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if again {
		if _, err := m.retry(ctx, t, stream.ID, true, time.Minute); err != nil {
			return err
		}
	}
	lines, compared, err := m.settled(ctx, c, t, stream)
	if err != nil {
		return err
	}
	if !compared {
		return fault.New(fault.Config, "the full load is not complete: what is missing is still to come").
			WithHint("First: pgcutover wait loaded --slot %s", m.Slot)
	}
	if lines, err = m.withOrphans(ctx, c, t, stream, lines); err != nil {
		return err
	}
	if err := m.allow(ctx, t, stream, lines, allow); err != nil {
		return err
	}
	switch as {
	case "json":
		e := json.NewEncoder(text.JSONWriter(m.Out))
		e.SetIndent("", "  ")
		if lines == nil {
			lines = []ledger.Line{}
		}
		err = e.Encode(lines)
	case "sql":
		err = m.missingSQL(lines)
	default:
		err = m.missingLines(lines)
	}
	if err != nil {
		return err
	}
	if left := ledger.Blocking(lines); len(left) > 0 {
		return fault.New(fault.Failed, "the target lacks %s of the source, or has %s otherwise",
			count.Of(len(left), "object"), count.Word(len(left), "it", "them"))
	}
	return nil
}

// missingLines prints the ledger for people.
func (m *Migration) missingLines(lines []ledger.Line) error {
	if len(lines) == 0 {
		_, err := fmt.Fprintln(m.Out, "nothing is missing: the target has everything that the source has")
		return err
	}
	for _, l := range lines {
		mark := ""
		if l.Allowed {
			mark = " (allowed)"
		}
		if _, err := text.Fprintf(m.Out, "%s  %s %s: %s%s\n          %s\n", l.ID, l.Kind, l.Name, l.Cause, mark, l.Remedy); err != nil {
			return err
		}
	}
	if len(m.lacking) > 1 {
		says, remedy := m.missingText(m.lacking)
		if _, err := text.Fprintf(m.Out, "%s. %s\n", says, remedy); err != nil {
			return err
		}
	}
	return nil
}

// missingSQL prints the statements that mend it. What could be obeyed by a terminal is left out.
func (m *Migration) missingSQL(lines []ledger.Line) error {
	if _, err := fmt.Fprint(m.Out, "SET search_path = '';\nSET check_function_bodies = off;\n"); err != nil {
		return err
	}
	as := ""
	for _, l := range lines {
		if l.Allowed {
			continue
		}
		if l.As != as && len(l.SQL) > 0 {
			as = l.As
			if _, err := text.Fprintf(m.Out, "\n-- On the target, as %s:\n", as); err != nil {
				return err
			}
		}
		if _, err := text.Fprintf(m.Out, "\n-- %s  %s %s: %s\n", l.ID, l.Kind, l.Name,
			strings.Join(strings.Fields(l.Cause), " ")); err != nil {
			return err
		}
		if len(l.SQL) == 0 {
			if _, err := text.Fprintf(m.Out, "-- no statement does it: %s\n", strings.Join(strings.Fields(l.Remedy), " ")); err != nil {
				return err
			}
		}
		for _, sql := range l.SQL {
			line := sql + ";\n"
			if !text.Harmless(sql) {
				line = "-- a statement with control characters is not printed; --json has it\n"
			}
			if _, err := fmt.Fprint(m.Out, line); err != nil {
				return err
			}
		}
	}
	return nil
}
