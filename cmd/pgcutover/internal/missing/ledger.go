// Package missing finds the objects that the target lacks or defines differently from the source,
// and the constraints that the source's rows violate. It prints these objects, tries to create them
// again, and stops a cutover that would leave them out.
package missing

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A Result is the outcome of a comparison.
type Result struct {
	Lines    []ledger.Line
	Compared bool // false before the load is complete: until then nothing can be said
	// Neither schema, nor the record of the migration, has changed since the comparison.
	Current bool
	Age     time.Duration // of a comparison that is not current

	lacking []coverage.TableName // the missing tables
	settled []int64              // failed objects that were created by hand
	// The tables that are carried in part and have not changed, as carried.Recount takes them.
	Unchanged string
}

// Compare compares the objects of the source with those of the target. It returns the objects that
// are missing or different.
func Compare(ctx context.Context, s *session.Session) (*Result, error) {
	return compare(ctx, s, new(Known), anew)
}

// Known is what a caller has read already. What is nil is read again.
type Known struct {
	Tables  []progress.TableInfo
	Carried []*carried.Table // as coverage.Compare returns them

	target *targetSide // set by Begin
}

func (k *Known) readTables(ctx context.Context, s *session.Session) (err error) {
	if k.Tables == nil {
		k.Tables, err = progress.Tables(ctx, s.OnTarget, s.Stream.ID)
	}
	return s.Target.Explain(err)
}

// Kept is Compare for a caller that only reports. It returns the kept result of the last comparison
// if the catalogs of both sides and the record of the migration are still the same. With many
// tables, that takes much less time. A step that changes anything compares again: it trusts nothing
// that is kept.
func Kept(ctx context.Context, s *session.Session, known *Known) (*Result, error) {
	return compare(ctx, s, known, kept)
}

// Last is Kept for a caller that must not take long. It compares nothing: if the last comparison is
// not current, or if there was none, the result says so.
func Last(ctx context.Context, s *session.Session, known *Known) (*Result, error) {
	return compare(ctx, s, known, past)
}

// What compare may return instead of comparing.
const (
	anew = iota // nothing
	kept        // what is kept, if it is current
	past        // what is kept
)

func compare(ctx context.Context, s *session.Session, known *Known, instead int) (*Result, error) {
	r := new(Result)
	if s.Stream.LoadStatus == "loading" {
		return r, nil
	}
	if err := known.readTables(ctx, s); err != nil {
		return nil, err
	}
	in, inputs, err := inputsOf(ctx, s, known)
	if err != nil {
		return nil, err
	}
	if instead != anew {
		if err := r.last(ctx, s, inputs); err != nil {
			return nil, err
		}
	}
	if !r.Current && instead != past {
		if err := read(ctx, s, in); err != nil {
			return nil, err
		}
		r.Lines, r.settled = ledger.Compare(*in)
		r.Compared, r.Current, r.Age = true, true, 0
		keepLines(ctx, s, inputs, r.Lines)
	}
	if !r.Compared {
		return r, nil
	}
	if err := r.notCarried(ctx, s, known); err != nil {
		return nil, err
	}
	return r, r.allow(ctx, s)
}

// unfenced gives a side's database the privileges that it had before the fence.
func unfenced(ctx context.Context, c *pgx.Conn, list []inventory.Object) error {
	f, isClosed, err := slot.GetFence(ctx, c)
	if err != nil || !isClosed || f == nil || f.Connect == nil {
		return err
	}
	i := slices.IndexFunc(list, func(o inventory.Object) bool { return o.Class == inventory.Database })
	if i < 0 {
		return nil
	}
	var to []uint32
	var option []bool
	for _, g := range f.Connect.Had {
		to, option = append(to, g.To), append(option, g.Option)
	}
	list[i].ACL, err = inventory.DatabaseRights(ctx, c, to, option)
	return err
}

// allow marks the lines that were allowed before.
func (r *Result) allow(ctx context.Context, s *session.Session) error {
	allowed, err := progress.Allowed(ctx, s.OnTarget, s.Stream.ID)
	for i := range r.Lines {
		r.Lines[i].Allowed = allowed[r.Lines[i].ID]
	}
	return s.Target.Explain(err)
}

// read adds the inventories and the target's record of the migration.
func read(ctx context.Context, s *session.Session, in *ledger.Input) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if in.Source, err = inventory.Read(gctx, s.OnSource); err == nil {
			err = unfenced(gctx, s.OnSource, in.Source)
		}
		return s.Source.Explain(err)
	})
	g.Go(func() (err error) {
		if in.Target, err = inventory.Read(gctx, s.OnTarget); err == nil {
			err = unfenced(gctx, s.OnTarget, in.Target) // in a cutover back, the target is an old primary
		}
		return s.Target.Explain(err)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return s.Target.Explain(remembered(ctx, s, in))
}

// remembered adds the target's record of the migration.
func remembered(ctx context.Context, s *session.Session, in *ledger.Input) (err error) {
	if in.Failed, err = progress.Failed(ctx, s.OnTarget, s.Stream.ID); err != nil {
		return err
	}
	onTarget := make(map[inventory.Key]string)
	if err := progress.Fingerprints(ctx, s.OnTarget, s.Stream.ID, func(side string, p *progress.Fingerprint) {
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
	if !s.Stream.Ended {
		for _, phase := range []progress.Phase{progress.PhaseCutover, progress.PhaseFinish} {
			list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, phase, "", "")
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
	for k, b := range in.Baseline {
		b.Target = onTarget[in.Renames.Key(k)]
		in.Baseline[k] = b
	}
	if in.Baseline == nil { // an older pgextract made the load, or a filter dropped the baseline
		in.Selected = false
	}
	rows, err := s.OnTarget.Query(ctx, "SELECT pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles")
	if err != nil {
		return err
	}
	var role string
	_, err = pgx.ForEachRow(rows, []any{&role}, func() error { in.Role[role] = true; return nil })
	return err
}

// notCarried adds the tables whose changes do not reach the target.
func (r *Result) notCarried(ctx context.Context, s *session.Session, known *Known) (err error) {
	if s.Stream.Ended || s.Stream.Key.Slot == "" {
		return nil
	}
	list := known.Carried
	if list == nil {
		if err := known.readTables(ctx, s); err != nil {
			return err
		}
		if list, err = coverage.Compare(ctx, s, known.Tables); err != nil {
			return err
		}
	}
	missing, uncarried, _ := coverage.Sort(list)
	r.lacking, r.Unchanged = missing, carried.Unchanged(list)
	lineOf := make(map[coverage.TableName]int)
	for i := range r.Lines {
		if schema, table, ok := r.Lines[i].Table(); ok && r.Lines[i].Problem == "missing" {
			lineOf[coverage.TableName{Schema: schema, Table: table}] = i
		}
	}
	for _, n := range missing {
		_, remedy := coverage.MissingText(s.Slot, []coverage.TableName{n})
		i, ok := lineOf[n]
		if !ok {
			line := ledger.NotCarried(n.Schema, n.Table)
			line.Cause = "it has never been loaded"
			r.Lines = append(r.Lines, line)
			i = len(r.Lines) - 1
		}
		r.Lines[i].Remedy, r.Lines[i].SQL = remedy, []string{}
	}
	for len(uncarried) > 0 { // sorted by table
		n := 1
		for n < len(uncarried) && uncarried[n].TableName == uncarried[0].TableName {
			n++
		}
		line := lineOfTable(&uncarried[0])
		says := make([]string, n)
		for i, u := range uncarried[:n] {
			says[i] = u.Says
		}
		line.Cause = strings.Join(says, "; ")
		_, line.Remedy = coverage.UncarriedText(s.Slot, uncarried[:n])
		r.Lines, uncarried = append(r.Lines, line), uncarried[n:]
	}
	return nil
}

// lineOfTable returns the line of a table that is not carried completely.
func lineOfTable(u *coverage.Uncarried) ledger.Line {
	switch carried.Code(u.Reason) {
	case carried.Changed, carried.Uncounted, carried.Truncated: // the table has no other reason
		return ledger.Changed(u.Reason, u.Schema, u.Table)
	}
	return ledger.NotCarried(u.Schema, u.Table)
}

// settled is Compare, repeated for a few seconds while objects are missing: sync may be about to
// execute the statement that creates them.
func settled(ctx context.Context, s *session.Session) (*Result, error) {
	const tries = 3
	for try := 1; ; try++ {
		r, err := Compare(ctx, s)
		if err != nil {
			return nil, err
		}
		if len(ledger.Blocking(r.Lines)) == 0 || try == tries {
			return r, nil
		}
		applied, err := progress.IsApplied(ctx, s.OnTarget, s.Stream.ID)
		if err != nil {
			return nil, s.Target.Explain(err)
		}
		if !applied || s.Stream.Ended {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
