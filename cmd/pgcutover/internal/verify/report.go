package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A tally counts the results of a report.
type tally struct {
	rows                  int64
	different, unverified []string // tables
	remedies              []string // what would allow the comparison of unverified tables
	lobs                  bool     // large objects differ
	show                  []*pair  // tables whose differences are to be shown
}

func (r *tally) equal() bool { return len(r.different) == 0 && !r.lobs }

// report writes a line for each table, or only for those that differ, records the verdict, and then
// shows the differences.
func (v *verification) report(ctx context.Context) (equal bool, err error) {
	var r tally
	for _, p := range v.pairs {
		v.reportTable(p, &r)
	}
	same, failed := v.largeObjects(ctx)
	if failed != nil && r.equal() {
		return true, failed
	}
	r.lobs = failed == nil && !same
	took := time.Since(v.began).Round(time.Millisecond)
	detail, result, differs := v.verdict(ctx, &r)
	// Record a difference as well: nobody should mistake this migration for a good one later.
	if err := v.record(ctx, took, detail, result); err != nil {
		if r.equal() {
			return true, v.Target.Explain(err)
		}
		v.Log.Warn("the difference could not be recorded on the target: " + v.Target.Explain(err).Error())
	}
	if failed != nil {
		v.Log.Warn("the large objects could not be compared: " + failed.Error())
	}
	// What fails from here on makes no difference of it.
	for _, p := range r.show {
		if err := v.differences(ctx, p); err != nil {
			v.Log.Warn(fmt.Sprintf("the rows of table %s.%s that differ could not be shown: %v", p.schema, p.name, err))
		}
	}
	if differs != nil {
		return r.equal(), differs
	}
	v.Log.Info(fmt.Sprintf("verify: %s (%v)", detail, took))
	return true, nil
}

// record records the verdict. The session may have been lost during a long comparison.
func (v *verification) record(ctx context.Context, took time.Duration, detail, result string) error {
	err := progress.StepWas(ctx, v.OnTarget, v.Stream.ID, "verify", took, detail, result)
	if err == nil || !v.OnTarget.IsClosed() {
		return err
	}
	c, failed := v.ConnectTarget(ctx)
	if failed != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	return progress.StepWas(ctx, c, v.Stream.ID, "verify", took, detail, result)
}

func (v *verification) reportTable(p *pair, r *tally) {
	name := p.schema + "." + p.name
	if p.unverified != "" && p.problem == "" {
		r.unverified = append(r.unverified, name)
		if p.remedy != "" && !slices.Contains(r.remedies, p.remedy) {
			r.remedies = append(r.remedies, p.remedy)
		}
		v.Printf("unverified\t%s\t%s\n", name, p.unverified)
		return
	}
	r.rows += p.source.rows
	if p.equal() {
		if !v.OnlyDifferent {
			v.Printf("equal\t%s\t%d\n", name, p.source.rows)
		}
		return
	}
	r.different = append(r.different, name)
	if p.problem != "" {
		v.Printf("different\t%s\t%s\n", name, p.problem)
		return
	}
	v.Printf("different\t%s\t%d rows on the source, %d on the target\n", name, p.source.rows, p.target.rows)
	if !p.byCopy { // else no query can read the table's rows
		r.show = append(r.show, p)
	}
}

// verdict returns the result in three forms: as text, as the word to record, and as the error for a
// target that differs or that could not be compared completely.
func (v *verification) verdict(ctx context.Context, r *tally) (detail, result string, err error) {
	n, tables := len(r.different), count.Of(len(v.pairs), "table")
	detail = fmt.Sprintf("%s, %s: all equal", tables, count.Of(r.rows, "row"))
	if n > 0 {
		detail = fmt.Sprintf("%d of %s %s: %s", n, tables, count.Word(n, "differs", "differ"), strings.Join(r.different, ", "))
	}
	switch {
	case !r.lobs:
	case n > 0:
		detail += "; large objects differ, too"
	default:
		detail = "large objects differ"
	}
	if !r.equal() {
		return detail, "differs", fault.New(fault.Failed, "%s", detail).WithHint("%s", v.whatNow(ctx))
	}
	if len(r.unverified) == 0 {
		return detail, "equal", nil
	}
	detail = fmt.Sprintf("%s could not be verified: %s; the others are equal",
		count.Of(len(r.unverified), "table"), strings.Join(r.unverified, ", "))
	if len(r.remedies) > 0 {
		return detail, "", fault.New(fault.Config, "%s", detail).
			WithHint("%s Then again: pgcutover verify --slot %s",
				strings.Join(r.remedies[:min(len(r.remedies), 5)], " "), text.Shell(v.Slot))
	}
	return detail, "", fault.New(fault.Config, "%s", detail).
		WithHint("The lines of the report say why. Where a row is too large for the server to read as a whole, compare by parts: count(*), and sums of md5 or length of each column, on both sides. "+
			"Where a function does not exist, another one relies on its caller's search path: ALTER FUNCTION … SET search_path = …, then again: pgcutover verify --slot %s", v.Slot)
}
