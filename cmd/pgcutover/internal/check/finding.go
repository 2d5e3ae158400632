package check

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// The severities, from the least to the worst. A note says what may surprise, and needs no action.
const (
	fine    = "ok"
	note    = "note"
	warning = "warning"
	failure = "error"
)

// A finding is the result of looking at one thing. Its fields are those of --json.
type finding struct {
	ID         string      `json:"id"` // names what was looked at; see catalogue
	Severity   string      `json:"severity"`
	Side       string      `json:"side"` // the side that was examined: source or target
	Text       string      `json:"text"`
	Remedy     string      `json:"remedy"`
	Statements []statement `json:"statements"`
	Doc        string      `json:"doc"`
	Shared     *share      `json:"shared,omitempty"`
}

// A share is of what all migrations from a server compete for: whoever begins several has to add up
// what they need.
type share struct {
	Server string      `json:"server"` // the same for all databases of the server
	Free   json.Number `json:"free"`   // how many nobody uses
	Needs  int         `json:"needs"`  // how many this migration has yet to take
}

// A statement is SQL for somebody to execute on one side.
type statement struct {
	Side string `json:"side"` // source or target
	As   string `json:"as"`   // a role, quoted, or superuser
	SQL  string `json:"sql"`
}

func (c *checker) ok(id, format string, args ...any) { c.add(id, fine, "", format, args...) }

func (c *checker) note(id, format string, args ...any) *finding {
	return c.add(id, note, "", format, args...)
}

func (c *checker) warn(id, remedy, format string, args ...any) *finding {
	return c.add(id, warning, remedy, format, args...)
}

// need is fail, or warn if the migration has begun.
func (c *checker) need(id, remedy, format string, args ...any) *finding {
	if c.begun {
		return c.warn(id, remedy, format, args...)
	}
	return c.fail(id, remedy, format, args...)
}

func (c *checker) fail(id, remedy, format string, args ...any) *finding {
	return c.add(id, failure, remedy, format, args...)
}

func (c *checker) add(id, severity, remedy, format string, args ...any) *finding {
	c.list = append(c.list, finding{ID: id, Severity: severity, Side: c.side, Text: fmt.Sprintf(format, args...), Remedy: remedy,
		Statements: []statement{}, Doc: doc(id)})
	return &c.list[len(c.list)-1]
}

// do adds statements for somebody to execute. They are printed one per line, ready to be pasted.
func (f *finding) do(side, as string, sql ...string) {
	for _, s := range sql {
		f.Statements = append(f.Statements, statement{side, as, sqltext.Rules{}.Portable(s)})
	}
}

// print prints the findings in a format: "json", "sql", or for people.
func (c *checker) print(as string) {
	switch as {
	case "json":
		e := json.NewEncoder(text.JSONWriter(c.m.Out))
		e.SetEscapeHTML(false)
		for _, f := range c.list {
			c.m.Wrote(0, e.Encode(f))
		}
	case "sql":
		c.m.Wrote(0, c.sql(c.m.Out))
	default:
		for _, s := range []pgdial.Server{c.m.Source, c.m.Target} {
			c.m.Printf("%s\n", c.m.Line(s))
		}
		for _, f := range c.list {
			c.lines(f)
		}
	}
}

// lines prints a finding for people: the fact, its remedy, and the remedy's statements.
func (c *checker) lines(f finding) {
	id := ""
	if f.Severity != fine {
		id = " [" + f.ID + "]"
	}
	c.m.Printf("%s\t%s%s\n", f.Severity, f.Text, id)
	if f.Remedy != "" {
		c.m.Printf("\t%s\n", f.Remedy)
	}
	side, as := "", ""
	for _, s := range f.Statements {
		if s.Side != side || s.As != as {
			side, as = s.Side, s.As
			c.m.Printf("\tOn the %s, as %s:\n", side, as)
		}
		c.m.Printf("\t\t%s\n", s.SQL)
	}
}

// sql prints the statements of all findings, grouped by who executes them where.
func (c *checker) sql(out io.Writer) error {
	var groups []statement // without SQL
	for _, f := range c.list {
		for _, s := range f.Statements {
			if g := (statement{Side: s.Side, As: s.As}); !slices.Contains(groups, g) {
				groups = append(groups, g)
			}
		}
	}
	slices.SortStableFunc(groups, func(a, b statement) int { return strings.Compare(a.Side, b.Side) })
	for _, g := range groups {
		if _, err := text.Fprintf(out, "-- On the %s, as %s:\n", g.Side, g.As); err != nil {
			return err
		}
		if _, err := fmt.Fprint(out, pgdial.Pasted()); err != nil {
			return err
		}
		for _, f := range c.list {
			if err := f.sqlFor(out, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// sqlFor prints a finding's statements for a group. It leaves out statements with control
// characters, which a terminal could interpret as commands.
func (f *finding) sqlFor(out io.Writer, group statement) error {
	named := false
	for _, s := range f.Statements {
		if s.Side != group.Side || s.As != group.As {
			continue
		}
		line := s.SQL
		if !text.Harmless(line) {
			line = "-- a statement with control characters is not printed; --json has it"
		}
		if !named {
			named = true
			if _, err := text.Fprintf(out, "-- %s: %s\n", f.ID, f.Text); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

// verdict turns the worst severity into the exit status.
func (c *checker) verdict() error {
	number := make(map[string]int)
	for _, f := range c.list {
		number[f.Severity]++
	}
	switch {
	case number[failure] > 0:
		return fault.New(fault.Config, "%s not met", count.Of(number[failure], "condition")).
			WithHint("Each line that begins with \"error\" is followed by its remedy.")
	case number[warning] > 0:
		return fault.New(fault.Failed, "no error, but %s", count.Of(number[warning], "warning")).
			WithHint("A migration can begin. Before that, read the lines that begin with \"warning\".")
	}
	return nil
}
