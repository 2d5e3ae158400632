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
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options say what is printed, and what is done before.
type Options struct {
	As           string   // "json", "sql", or empty: for people
	Retry        bool     // first try to create what the load could not, where that reads no rows
	AllowOrphans bool     // leave out foreign keys that rows of the source violate
	Allow        []string // lines that may stay as they are from now on
}

// Print prints what the target lacks of the source, or has otherwise. It fails with status Failed
// if there is something that is not allowed.
func Print(ctx context.Context, m *session.Migration, o Options) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if o.Retry {
		if _, err := Retry(ctx, s, true, time.Minute); err != nil {
			return err
		}
	}
	r, err := settled(ctx, s)
	if err != nil {
		return err
	}
	if !r.Compared {
		return fault.New(fault.Config, "the full load is not complete, so objects are still missing").
			WithHint("If pgapply is loading: pgcutover wait loaded --slot %[1]s. If it is not: pgextract --slot %[1]s --resume | pgapply", m.Slot)
	}
	if !o.AllowOrphans {
		if err := r.withOrphans(ctx, s); err != nil {
			return err
		}
	}
	if err := accept(ctx, s, r.Lines, o.Allow); err != nil {
		return err
	}
	switch o.As {
	case "json":
		e := json.NewEncoder(text.JSONWriter(m.Out))
		e.SetIndent("", "  ")
		if r.Lines == nil {
			r.Lines = []ledger.Line{}
		}
		err = e.Encode(r.Lines)
	case "sql":
		err = r.sql(m.Out)
	default:
		err = r.lines(m.Out, m.Slot)
	}
	if err != nil {
		return err
	}
	if left := ledger.Blocking(r.Lines); len(left) > 0 {
		return fault.New(fault.Failed, "the target lacks %s of the source, or has %s with differences",
			count.Of(len(left), "object"), count.Word(len(left), "it", "them"))
	}
	return nil
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

// sql prints the statements that mend it. What could be obeyed by a terminal is left out.
func (r *Result) sql(out io.Writer) error {
	if _, err := fmt.Fprint(out, "SET search_path = '';\nSET check_function_bodies = off;\n"); err != nil {
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
