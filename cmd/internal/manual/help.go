package manual

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

const (
	width = 80 // width of a terminal
	left  = 22 // width of the column of flags and commands; a longer name gets its own line
)

// help prints the description of a program or one of its commands, its flags, examples and exit
// statuses.
func (m *Manual) help(_ kong.HelpOptions, ctx *kong.Context) error {
	node, summary := ctx.Model.Node, ctx.Model.Summary()
	if ctx.Selected() != nil {
		node, summary = ctx.Selected(), " "+ctx.Selected().Summary()
	}
	p := &page{}
	p.printf("Usage: %s%s\n\n%s\n", ctx.Model.Name, summary, strings.Join(wrap(node.Help, width), "\n"))
	if len(node.Positional) > 0 {
		p.printf("\nArguments:\n")
		for _, a := range node.Positional {
			p.row(a.Summary(), a.Help)
		}
	}
	for _, g := range commandGroups(node) {
		p.printf("\n%s\n", g.title)
		for _, c := range g.members {
			p.row(c.Path(), c.Help)
		}
	}
	for _, g := range flagGroups(node) {
		p.printf("\n%s\n", g.title)
		for _, f := range g.members {
			p.row(flagSummary(f), f.Help)
		}
	}
	if len(node.Children) > 0 {
		p.printf("\nEach command has its own help: %s COMMAND --help\n", strings.TrimSpace(ctx.Model.Name+" "+commandPath(node)))
	}
	if list := m.examples(ctx.Model.Name, ctx.Selected()); len(list) > 0 {
		p.printf("\nExamples:\n")
		for _, e := range list {
			p.printf("  %s\n    %s\n", strings.Join(wrap(e.Does, width-2), "\n  "), e.Command)
		}
	}
	p.printf("\nExit statuses:\n")
	for _, s := range m.statuses() {
		p.printf("  %-3s  %s\n", s[0], strings.Join(wrap(s[1], width-7), "\n       "))
	}
	_, err := io.WriteString(ctx.Stdout, p.String())
	return err
}

type page struct{ strings.Builder }

func (p *page) printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// row prints a name and, beside it, its text.
func (p *page) row(name, text string) {
	margin := strings.Repeat(" ", 2+left+2)
	lines := wrap(text, width-len(margin))
	if len(name) > left {
		p.printf("  %s\n%s%s\n", name, margin, lines[0])
	} else {
		p.printf("  %-*s  %s\n", left, name, lines[0])
	}
	for _, l := range lines[1:] {
		p.printf("%s%s\n", margin, l)
	}
}

// A group is a heading and the entries below it.
type group[T any] struct {
	title   string
	members []T
}

// grouped distributes a list over the groups, in the order of the groups.
func grouped[T any](list []T, of func(T) *kong.Group) (out []group[T]) {
	for _, g := range groups {
		var members []T
		for _, x := range list {
			if h := of(x); h == nil && g.Key == "" || h != nil && h.Key == g.Key {
				members = append(members, x)
			}
		}
		if len(members) > 0 {
			out = append(out, group[T]{g.Title, members})
		}
	}
	return out
}

// commandGroups returns the commands below a node.
func commandGroups(n *kong.Node) []group[*kong.Node] {
	if len(n.Children) == 0 {
		return nil
	}
	return grouped(n.Leaves(true), (*kong.Node).ClosestGroup)
}

// flagGroups returns a node's flags, followed by the flags of the whole program.
func flagGroups(n *kong.Node) []group[*kong.Flag] {
	return grouped(flagsOf(n), func(f *kong.Flag) *kong.Group { return f.Group })
}

func flagsOf(n *kong.Node) (list []*kong.Flag) {
	levels := n.AllFlags(true)
	for i := range levels {
		list = append(list, levels[len(levels)-1-i]...)
	}
	return list
}

// flagSummary returns a flag with the name of its value: "--jobs=N".
func flagSummary(f *kong.Flag) string {
	s := "--" + f.Name
	if f.Short != 0 {
		s = "-" + string(f.Short) + ", " + s
	}
	if !f.IsBool() {
		s += "=" + f.PlaceHolder
	}
	return s
}

// wrap breaks text into lines of at most n columns.
func wrap(text string, n int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > n:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
