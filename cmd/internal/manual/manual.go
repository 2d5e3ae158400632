// Package manual makes a program's own documentation: --help, the manual page, and completions for
// shells. It makes all of them from kong's model of the flags and a Manual.
package manual

import (
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// A Manual has the documentation that kong's model of the flags lacks.
type Manual struct {
	Does     string    // one sentence
	Examples []Example // --help shows the first two, or those of the selected command

	// Exits are the program's own meanings of exit statuses; "" marks a status that it never
	// returns.
	Exits map[fault.Status]string
}

// An Example is a command line to paste, and its description.
type Example struct{ Does, Command string }

// groups are the headings of --help, in order. The tags of flags and commands have the keys.
var groups = []kong.Group{
	{Key: "", Title: "Commands:"},
	{Key: "before", Title: "Before the night:"},
	{Key: "night", Title: "The night, in this order:"},
	{Key: "back", Title: "To give up the night:"},
	{Key: "after", Title: "Afterwards:"},
	{Key: "connection", Title: "Connection:"},
	{Key: "what", Title: "What:"},
	{Key: "parallel", Title: "Parallel:"},
	{Key: "resume", Title: "Resume:"},
	{Key: "conflicts", Title: "Conflicts:"},
	{Key: "output", Title: "Output:"},
	{Key: "other", Title: "Other:"},
}

// exits are the exit statuses, with their meaning for every program.
var exits = []struct {
	status fault.Status
	means  string
}{
	{fault.OK, "Success: all work is done, and durable."},
	{fault.Failed, "Failure. Standard error says why."},
	{fault.Usage, "Wrong usage. Correct the command line."},
	{fault.Data, "The input is not a stream, is damaged, or is cut. What was complete is applied."},
	{fault.Unavailable, "Refused for good: no such host, database or slot."},
	{fault.TryAgain, "Try again: connection lost, server restarting, slot in use, or time-out."},
	{fault.Permission, "Authentication failed, or a privilege is missing."},
	{fault.Config, "A server's configuration or an unmet condition prevents it. Nothing was changed."},
	{fault.Interrupted, "Stopped by SIGINT, in order."},
	{fault.Terminated, "Stopped by SIGTERM or SIGHUP, in order."},
}

// Options make a parser show this manual.
func (m *Manual) Options() []kong.Option {
	return []kong.Option{
		kong.Description(m.Does),
		kong.ExplicitGroups(groups),
		kong.AutoGroup(func(kong.Visitable, *kong.Flag) *kong.Group { return &groups[len(groups)-1] }),
		kong.Help(m.help),
		kong.Bind(m),
		kong.Embed(&struct {
			Generate generator `hidden:"" placeholder:"WHAT"`
		}{}),
	}
}

// examples returns the examples of a command, or the first two if no command is selected.
func (m *Manual) examples(program string, command *kong.Node) (list []Example) {
	if command == nil {
		return m.Examples[:min(2, len(m.Examples))]
	}
	for _, e := range m.Examples {
		if strings.HasPrefix(e.Command+" ", program+" "+commandPath(command)+" ") {
			list = append(list, e)
		}
	}
	return list
}

// statuses returns the exit statuses of this program, each with its meaning.
func (m *Manual) statuses() (list [][2]string) {
	for _, e := range exits {
		means, own := m.Exits[e.status]
		if !own {
			means = e.means
		}
		if means != "" {
			list = append(list, [2]string{strconv.Itoa(int(e.status)), means})
		}
	}
	return list
}

// commandPath returns the words that select a command: "ddl install".
func commandPath(n *kong.Node) string {
	if n.Parent == nil {
		return ""
	}
	return strings.TrimSpace(commandPath(n.Parent) + " " + n.Name)
}
