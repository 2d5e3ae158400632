package manual

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// words returns the words that may follow a command: its commands or values, then its flags.
func words(n *kong.Node) (list []string) {
	for _, c := range n.Children {
		list = append(list, c.Name)
	}
	for _, a := range n.Positional {
		list = append(list, choices(a)...)
	}
	for _, f := range flagsOf(n) {
		list = append(list, "--"+f.Name)
	}
	return list
}

// choices returns the values of a flag or an argument that allows only certain values.
func choices(v *kong.Value) (list []string) {
	if v.Enum == "" {
		return nil
	}
	return slices.DeleteFunc(v.EnumSlice(), func(s string) bool { return s == "" })
}

// nodes returns a node and all commands below it.
func nodes(n *kong.Node) []*kong.Node {
	list := []*kong.Node{n}
	for _, c := range n.Children {
		list = append(list, nodes(c)...)
	}
	return list
}

// isFile reports whether a flag's value names a file.
func isFile(f *kong.Flag) bool { return f.PlaceHolder == "FILE" }

// valued returns the flags of all commands that take a value, each name once.
func valued(app *kong.Application) (list []*kong.Flag) {
	seen := make(map[string]bool)
	for _, n := range nodes(app.Node) {
		for _, f := range n.Flags {
			if !f.Hidden && !f.IsBool() && !seen[f.Name] {
				seen[f.Name] = true
				list = append(list, f)
			}
		}
	}
	return list
}

// short returns the first sentence of a help text. A list of completions has no room for more.
func short(help string) string {
	s, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(s, ".")
}
