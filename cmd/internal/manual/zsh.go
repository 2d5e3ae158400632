package manual

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// single quotes a string for shells that have no escapes within single quotes.
func single(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var zshEscapes = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `:`, `\:`)

// zsh returns a completion for zsh: a function for each command.
func zsh(app *kong.Application) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "#compdef %s\n# made by: %s --generate zsh\n", app.Name, app.Name)
	list := nodes(app.Node)
	slices.Reverse(list)
	for _, n := range list {
		zshNode(b, app.Name, n)
	}
	fmt.Fprintf(b, "\n_%s \"$@\"\n", app.Name)
	return b.String()
}

func zshNode(b *strings.Builder, program string, n *kong.Node) {
	put := func(format string, args ...any) { fmt.Fprintf(b, format, args...) }
	name := func(n *kong.Node) string {
		return strings.ReplaceAll(strings.TrimSpace("_"+program+" "+commandPath(n)), " ", "_")
	}
	put("\n%s() {\n\tlocal curcontext=$curcontext state line\n\ttypeset -A opt_args\n\t_arguments -C", name(n))
	for _, f := range flagsOf(n) {
		put(" \\\n\t\t%s", single(zshFlag(f)))
	}
	for i, a := range n.Positional {
		put(" \\\n\t\t%s", single(fmt.Sprintf("%d:%s:(%s)", i+1, a.Name, strings.Join(choices(a), " "))))
	}
	if len(n.Children) == 0 {
		put("\n}\n")
		return
	}
	put(" \\\n\t\t'1:command:->command' '*::argument:->argument'\n\tcase $state in\n\tcommand)\n\t\tlocal -a commands=(\n")
	for _, c := range n.Children {
		put("\t\t\t%s\n", single(c.Name+":"+short(c.Help)))
	}
	put("\t\t)\n\t\t_describe command commands\n\t\t;;\n\targument)\n\t\tcase $line[1] in\n")
	for _, c := range n.Children {
		put("\t\t%s) %s ;;\n", c.Name, name(c))
	}
	put("\t\tesac\n\t\t;;\n\tesac\n}\n")
}

// zshFlag returns a flag in the syntax of _arguments: --name=[help]:value:completion.
func zshFlag(f *kong.Flag) string {
	what := "[" + zshEscapes.Replace(short(f.Help)) + "]"
	if f.IsBool() {
		return "--" + f.Name + what
	}
	repeat, values := "", " "
	if f.IsCumulative() {
		repeat = "*"
	}
	switch list := choices(f.Value); {
	case len(list) > 0:
		values = "(" + strings.Join(list, " ") + ")"
	case isFile(f):
		values = "_files"
	}
	return repeat + "--" + f.Name + "=" + what + ":" + zshEscapes.Replace(f.PlaceHolder) + ":" + values
}
