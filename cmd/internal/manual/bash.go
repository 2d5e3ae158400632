package manual

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// bash returns a completion for bash.
func bash(app *kong.Application) string {
	b := &strings.Builder{}
	put := func(format string, args ...any) { fmt.Fprintf(b, format, args...) }
	var names, paths []string
	for _, f := range valued(app) {
		names = append(names, "--"+f.Name)
	}
	for _, n := range nodes(app.Node)[1:] {
		paths = append(paths, "' "+commandPath(n)+"'")
	}
	put("# bash completion of %s, made by: %s --generate bash\n", app.Name, app.Name)
	put("_%s() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} path='' words=''\n", app.Name)
	put("\t# bash makes three words of --flag=value.\n")
	put("\tif [[ $cur == '=' ]]; then cur=''; elif [[ $prev == '=' ]]; then prev=${COMP_WORDS[COMP_CWORD - 2]}; fi\n")
	if len(paths) > 0 {
		put("\tlocal i\n\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n\t\t%s)\n", strings.Join(names, " | "))
		put("\t\t\tif [[ ${COMP_WORDS[i + 1]-} == '=' ]]; then ((i += 2)); else ((i += 1)); fi\n\t\t\tcontinue\n\t\t\t;;\n\t\tesac\n")
		put("\t\tcase \"$path ${COMP_WORDS[i]}\" in\n\t\t%s) path+=\" ${COMP_WORDS[i]}\" ;;\n\t\tesac\n\tdone\n",
			strings.Join(paths, " | "))
	}
	put("\tcase $prev in\n")
	for _, f := range valued(app) {
		switch list := choices(f.Value); {
		case len(list) > 0:
			put("\t--%s) words='%s' ;;\n", f.Name, strings.Join(list, " "))
		case isFile(f):
			put("\t--%s)\n\t\tcompopt -o filenames 2>/dev/null\n\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n\t\treturn\n\t\t;;\n", f.Name)
		default:
			put("\t--%s) return ;;\n", f.Name)
		}
	}
	put("\t*)\n\t\tcase $path in\n")
	for _, n := range nodes(app.Node) {
		path := commandPath(n)
		if path != "" {
			path = " " + path
		}
		put("\t\t'%s') words='%s' ;;\n", path, strings.Join(words(n), " "))
	}
	put("\t\tesac\n\t\t;;\n\tesac\n\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}\ncomplete -F _%s %s\n",
		app.Name, app.Name)
	return b.String()
}
