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
}

func (r *tally) equal() bool { return len(r.different) == 0 && !r.lobs }

// report writes a line for each table, or only for those that differ, and shows the differences.
func (v *verification) report(ctx context.Context) (equal bool, err error) {
	var r tally
	for _, p := range v.pairs {
		if err := v.reportTable(ctx, p, &r); err != nil {
			return false, err
		}
	}
	same, err := v.largeObjects(ctx)
	if err != nil {
		return r.equal(), err
	}
	r.lobs = !same
	took := time.Since(v.began).Round(time.Millisecond)
	detail, result, differs := v.verdict(ctx, &r)
	// Record a difference as well: nobody should mistake this migration for a good one later.
	if err := progress.StepBegan(ctx, v.OnTarget, v.Stream.ID, "verify", took); err != nil {
		return r.equal(), v.Target.Explain(err)
	}
	if err := progress.StepEndsWith(ctx, v.OnTarget, v.Stream.ID, "verify", detail, result); err != nil {
		return r.equal(), v.Target.Explain(err)
	}
	if differs != nil {
		return r.equal(), differs
	}
	v.Log.Info(fmt.Sprintf("verify: %s (%v)", detail, took))
	return true, nil
}

func (v *verification) reportTable(ctx context.Context, p *pair, r *tally) error {
	name := p.schema + "." + p.name
	if p.unverified != "" && p.problem == "" {
		r.unverified = append(r.unverified, name)
		if p.remedy != "" && !slices.Contains(r.remedies, p.remedy) {
			r.remedies = append(r.remedies, p.remedy)
		}
		v.Printf("unverified\t%s\t%s\n", name, p.unverified)
		return nil
	}
	r.rows += p.source.rows
	if p.equal() {
		if !v.OnlyDifferent {
			v.Printf("equal\t%s\t%d\n", name, p.source.rows)
		}
		return nil
	}
	r.different = append(r.different, name)
	if p.problem != "" {
		v.Printf("different\t%s\t%s\n", name, p.problem)
		return nil
	}
	v.Printf("different\t%s\t%d rows on the source, %d on the target\n", name, p.source.rows, p.target.rows)
	if p.byCopy { // no query can read the table's rows
		return nil
	}
	return v.differences(ctx, p)
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
