package manual

import (
	"fmt"

	"github.com/alecthomas/kong"
)

// A generator is the hidden flag --generate. scripts/install uses it to make the files.
type generator string

// BeforeReset prints the requested file and exits, even if the rest of the command line is
// incomplete. kong's own --help and --version work in the same way.
func (generator) BeforeReset(ctx *kong.Context, path *kong.Path, m *Manual, vars kong.Vars) error {
	app := ctx.Model
	var out string
	switch kind := fmt.Sprint(ctx.FlagValue(path.Flag)); kind {
	case "man":
		out = m.roff(app, vars["number"], vars["date"])
	case "bash":
		out = bash(app)
	case "zsh":
		out = zsh(app)
	case "fish":
		out = fish(app)
	default:
		return fmt.Errorf("--generate must be one of man, bash, zsh, fish but got %q", kind)
	}
	if _, err := fmt.Fprint(ctx.Stdout, out); err != nil {
		return err
	}
	ctx.Exit(0)
	return nil
}
