package manual

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// fish returns a completion for fish.
func fish(app *kong.Application) string {
	b := &strings.Builder{}
	put := func(format string, args ...any) { fmt.Fprintf(b, format, args...) }
	quoted := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	put("# fish completion of %s, made by: %s --generate fish\ncomplete -c %s -f\n", app.Name, app.Name, app.Name)
	for _, n := range nodes(app.Node) {
		when := fishCondition(n)
		for _, c := range n.Children {
			not := ""
			for _, sibling := range n.Children {
				not += " " + sibling.Name
			}
			condition := "not __fish_seen_subcommand_from" + not
			if when != "" {
				condition = when + "; and " + condition
			}
			put("complete -c %s -n %s -a %s -d %s\n", app.Name, quoted(condition), c.Name, quoted(short(c.Help)))
		}
		if when != "" {
			when = " -n " + quoted(when)
		}
		for _, a := range n.Positional {
			put("complete -c %s%s -a %s -d %s\n", app.Name, when, quoted(strings.Join(choices(a), " ")), a.Name)
		}
		for _, f := range n.Flags {
			if f.Hidden {
				continue
			}
			value := ""
			switch list := choices(f.Value); {
			case f.IsBool():
			case len(list) > 0:
				value = " -x -a " + quoted(strings.Join(list, " "))
			case isFile(f):
				value = " -r -F"
			default:
				value = " -x"
			}
			put("complete -c %s%s -l %s%s -d %s\n", app.Name, when, f.Name, value, quoted(short(f.Help)))
		}
	}
	return b.String()
}

// fishCondition is true after the user has typed the words of a command.
func fishCondition(n *kong.Node) string {
	var list []string
	for _, w := range strings.Fields(commandPath(n)) {
		list = append(list, "__fish_seen_subcommand_from "+w)
	}
	return strings.Join(list, "; and ")
}
