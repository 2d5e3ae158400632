package manual

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// environment has the variables that replace a flag, and the variables that every program reads.
var environment = []struct{ flag, name, means string }{
	{"source", "PGSLUICE_SOURCE", "The source database, if there is no --source."},
	{"target", "PGSLUICE_TARGET", "The target database, if there is no --target."},
	{"source-password-command", "PGSLUICE_SOURCE_PASSWORD_COMMAND", "The command, if there is no --source-password-command."},
	{"target-password-command", "PGSLUICE_TARGET_PASSWORD_COMMAND", "The command, if there is no --target-password-command."},
	{"", "PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSFILE, PGSERVICE, PGSSLMODE, …",
		"What a connection string leaves open, as for psql. See the documentation of libpq."},
}

// programs lists the programs in the order of a migration.
var programs = []string{"pgextract", "pgdecode", "pgapply", "pgcutover"}

// roff returns the manual page. It uses the man macros, which every man program supports.
func (m *Manual) roff(app *kong.Application, version, date string) string {
	r := &roff{}
	r.printf(".TH %s 1 %s %s pgsluice\n", quote(strings.ToUpper(app.Name)), quote(date), quote("pgsluice "+version))
	r.section("NAME")
	r.text(app.Name + ` \- ` + text(lowered(short(m.Does))))
	r.section("SYNOPSIS")
	r.printf(".B %s\n", app.Name)
	r.text(text(strings.TrimSpace(app.Summary())))
	r.section("DESCRIPTION")
	r.text(text(m.Does))
	r.options("OPTIONS", app.Node)
	if len(app.Children) > 0 {
		r.section("COMMANDS")
		for _, g := range commandGroups(app.Node) {
			for _, c := range g.members {
				r.command(app, c)
			}
		}
	}
	r.section("EXIT STATUS")
	for _, s := range m.statuses() {
		r.item(s[0], s[1])
	}
	r.section("ENVIRONMENT")
	for _, e := range environment {
		if e.flag == "" || hasFlag(app, e.flag) {
			r.item(e.name, e.means)
		}
	}
	r.section("EXAMPLES")
	for i, e := range m.Examples {
		if i > 0 {
			r.printf(".PP\n")
		}
		r.printf("%s\n.RS 4\n.nf\n%s\n.fi\n.RE\n", text(e.Does), text(e.Command))
	}
	r.section("SEE ALSO")
	var also []string
	for _, p := range programs {
		if p != app.Name {
			also = append(also, `\fB`+p+`\fR(1)`)
		}
	}
	r.text(strings.Join(also, ", "))
	return r.String()
}

type roff struct{ strings.Builder }

func (r *roff) printf(format string, args ...any) { fmt.Fprintf(r, format, args...) }
func (r *roff) section(name string)               { r.printf(".SH %s\n", quote(name)) }
func (r *roff) text(s string)                     { r.printf("%s\n", s) }

// item writes a name in bold and its meaning.
func (r *roff) item(name, means string) { r.printf(".TP\n.B %s\n%s\n", quote(name), text(means)) }

// options writes a node's own flags, by group.
func (r *roff) options(section string, n *kong.Node) {
	r.section(section)
	for _, g := range flagGroups(n) {
		r.printf(".SS %s\n", quote(strings.TrimSuffix(g.title, ":")))
		for _, f := range g.members {
			r.item(flagSummary(f), f.Help)
		}
	}
}

// command writes a command with its own arguments and flags.
func (r *roff) command(app *kong.Application, n *kong.Node) {
	r.printf(".SS %s\n", quote(app.Name+" "+commandPath(n)))
	r.text(text(n.Help))
	for _, a := range n.Positional {
		r.item(a.Summary(), a.Help)
	}
	for _, f := range n.Flags {
		r.item(flagSummary(f), f.Help)
	}
}

func hasFlag(app *kong.Application, name string) bool {
	for _, f := range app.Flags {
		if f.Name == name {
			return true
		}
	}
	return false
}

var escapes = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `…`, `...`)

// text escapes characters that roff would interpret.
func text(s string) string {
	s = escapes.Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// quote quotes a string as one argument of a macro.
func quote(s string) string { return `"` + strings.ReplaceAll(text(s), `"`, `""`) + `"` }

func lowered(s string) string { return strings.ToLower(s[:1]) + s[1:] }
