package missing

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options choose the output format and what Print does first.
type Options struct {
	As           string   // "json", "sql", or empty for people
	Retry        bool     // first create what the load could not, if that reads no rows
	AllowOrphans bool     // do not look for rows that violate foreign keys
	Allow        []string // ids of lines to accept from now on
}

// Print prints the objects that the target lacks or defines differently from the source. It fails
// with status Failed if one of them is not allowed.
func Print(ctx context.Context, m *session.Migration, o Options) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	compare := settled
	if o.Retry {
		if _, err := Retry(ctx, s, true, time.Minute); err != nil {
			return err
		}
		compare = current
	}
	r, err := compare(ctx, s)
	if err != nil {
		return err
	}
	if !r.Compared {
		return incomplete(ctx, s, o.As, m.Out)
	}
	if !o.AllowOrphans {
		if err := r.withOrphans(ctx, s); err != nil {
			return err
		}
	}
	if err := accept(ctx, s, r.Lines, o.Allow); err != nil {
		return err
	}
	if err := r.print(m.Out, o.As, m.Slot); err != nil {
		return err
	}
	if left := ledger.Blocking(r.Lines); len(left) > 0 {
		return fault.New(fault.Failed, "the target lacks %s of the source, or has %s with differences",
			count.Of(len(left), "object"), count.Word(len(left), "it", "them"))
	}
	return nil
}

// incomplete prints what an incomplete load could not create: rows may be missing for want of it.
// Nothing else can be said about the target yet.
func incomplete(ctx context.Context, s *session.Session, as string, out io.Writer) error {
	failed, err := progress.Failed(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	hint := "If pgapply is loading: pgcutover wait loaded --slot %[1]s. If it is not: pgextract --slot %[1]s --resume | pgapply"
	if len(failed) > 0 {
		var role string
		if err := s.OnTarget.QueryRow(ctx, "SELECT current_user").Scan(&role); err != nil {
			return s.Target.Explain(err)
		}
		r := Result{Lines: ledger.Refused(failed, role)}
		if err := r.print(out, as, s.Slot); err != nil {
			return err
		}
		hint = "If pgapply is loading: pgcutover wait loaded --slot %[1]s. If it is not, create what it could not, with the statements of pgcutover missing --slot %[1]s --sql, then: pgextract --slot %[1]s --resume | pgapply"
	}
	return fault.New(fault.Config, "the full load is not complete, so objects are still missing").WithHint(hint, s.Slot)
}

// print prints the ledger in a format: "json", "sql", or for people.
func (r *Result) print(out io.Writer, as, slot string) error {
	switch as {
	case "json":
		e := json.NewEncoder(text.JSONWriter(out))
		e.SetIndent("", "  ")
		if r.Lines == nil {
			r.Lines = []ledger.Line{}
		}
		return e.Encode(r.Lines)
	case "sql":
		return r.sql(out)
	}
	return r.lines(out, slot)
}

// lines prints the ledger for people.
func (r *Result) lines(out io.Writer, slot string) error {
	if len(r.Lines) == 0 {
		_, err := fmt.Fprintln(out, "nothing is missing: the target has everything that the source has")
		return err
	}
	for _, l := range r.Lines {
		mark := ""
		if l.Allowed {
			mark = " (allowed)"
		}
		if _, err := text.Fprintf(out, "%s  %s %s: %s%s\n          %s\n", l.ID, l.Kind, l.Name, l.Cause, mark, l.Remedy); err != nil {
			return err
		}
	}
	if len(r.lacking) > 1 {
		says, remedy := coverage.MissingText(slot, r.lacking)
		if _, err := text.Fprintf(out, "%s. %s\n", says, remedy); err != nil {
			return err
		}
	}
	return nil
}

// sql prints the statements that repair the target. It leaves out statements with control
// characters, which a terminal could interpret as commands.
func (r *Result) sql(out io.Writer) error {
	if _, err := fmt.Fprint(out, pgdial.Pasted()); err != nil {
		return err
	}
	as := ""
	for _, l := range r.Lines {
		if l.Allowed {
			continue
		}
		if l.As != as && len(l.SQL) > 0 {
			as = l.As
			if _, err := text.Fprintf(out, "\n-- On the target, as %s:\n", as); err != nil {
				return err
			}
		}
		if _, err := text.Fprintf(out, "\n-- %s  %s %s: %s\n", l.ID, l.Kind, l.Name,
			strings.Join(strings.Fields(l.Cause), " ")); err != nil {
			return err
		}
		if len(l.SQL) == 0 {
			if _, err := text.Fprintf(out, "-- no statement does it: %s\n", strings.Join(strings.Fields(l.Remedy), " ")); err != nil {
				return err
			}
		}
		for _, sql := range l.SQL {
			line := sql + ";\n"
			if !text.Harmless(sql) {
				line = "-- a statement with control characters is not printed; --json has it\n"
			}
			if _, err := fmt.Fprint(out, line); err != nil {
				return err
			}
		}
	}
	return nil
}
