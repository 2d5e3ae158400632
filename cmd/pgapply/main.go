package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/manual"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/apply"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/inspect"
	"github.com/pgsluice/pgsluice/format"
)

func main() { os.Exit(cli.Main("pgapply", run)) }

type flags struct {
	Target                string `group:"connection" placeholder:"URI" help:"The target database: a URI or keywords. Default: PGSLUICE_TARGET, else libpq's variables."`
	TargetPasswordCommand string `group:"connection" placeholder:"COMMAND" help:"Run this shell command for each connection to the target. It prints the password. Default: PGSLUICE_TARGET_PASSWORD_COMMAND."`

	Rename         []string `group:"what" placeholder:"OLD=NEW" help:"Apply a schema, or a table given as schema.table, under another name. May be repeated."`
	Constraints    string   `group:"what" enum:"now,cutover,auto" default:"auto" placeholder:"WHEN" help:"When to create foreign keys and triggers: now (after the load), cutover or auto. Default: auto, which is cutover for a load that belongs to a slot, else now."`
	RebuildIndexes bool     `group:"what" help:"For a schema created by hand (pgextract --data-only): drop the indexes, and rebuild those of each table after its rows are loaded."`
	Encoding       string   `group:"what" placeholder:"NAME" help:"The encoding of the text of an SQL_ASCII source. The target converts it."`

	Jobs int `group:"parallel" placeholder:"N" help:"Build this many indexes, and write this many groups of changes, at the same time. Default: 4 for indexes, 1 for changes."`

	Adopt bool `group:"resume" help:"Apply changes to a target that pgapply has not loaded. It must have the rows as of the stream's start."`

	OnConflict string   `group:"conflicts" enum:"error,skip,overwrite" default:"error" placeholder:"POLICY" help:"What to do with a change that does not fit the target's rows: error (stop), skip (keep the target's row) or overwrite (take the source's). The target records the last two in pgsluice.conflicts. Default: error."`
	SkipLSN    []string `group:"conflicts" name:"skip-lsn" placeholder:"LSN" help:"Do not apply the transaction with this commit LSN, but record its changes in pgsluice.conflicts. May be repeated."`

	Check     bool   `group:"output" help:"Read the streams to their end, and print a summary to standard error. Needs no target, and changes nothing."`
	To        string `group:"output" enum:",json" default:"" placeholder:"FORMAT" help:"Print each record as one line in this format, which is json. Needs no target, and changes nothing."`
	LogFormat string `group:"output" enum:"text,json" default:"text" placeholder:"FORMAT" help:"Messages on standard error: text or json. Default: text."`

	Version kong.VersionFlag `group:"other" help:"Print version, commit and date."`
}

var about = manual.Manual{
	Does: "Apply the streams on standard input, full loads and changes, to the target database.",
	Examples: []manual.Example{
		{Does: "Load a database:", Command: "pgextract --slot mig | pgapply"},
		{Does: "Check a file before you rely on it:", Command: "pgapply --check < load.pgs"},
		{Does: "Go on after a row that the target already has, and record it:",
			Command: "pgdecode --slot mig --until now | pgapply --on-conflict skip"},
	},
	Exits: map[fault.Status]string{
		fault.OK:   "Success: all that the input has is applied, and durable.",
		fault.Data: "The input is not a stream, is damaged or cut, or lacks parts of a load. What was complete is applied.",
	},
}

// garbage is the garbage collector's target percentage (GOGC): half of Go's default. It matters
// when very many transactions are in progress at once. A limit in bytes would not do: if more
// memory than that is in use, as with ten thousand tables, the collector never stops.
const garbage = 50

func run(ctx context.Context, env *cli.Env) error {
	var f flags
	if _, err := env.Parse(&f, about); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	env.SetLogFormat(f.LogFormat)
	in, err := env.Input()
	if err != nil {
		return err
	}
	switch {
	case f.Check && f.To != "":
		return fault.New(fault.Usage, "--check and --to cannot be used together").
			WithHint("--to json makes the same checks, except for parts that are missing at the end.")
	case f.Check:
		return check(env, in)
	case f.To == "json":
		return printJSON(env, in)
	}
	r := &apply.Run{Server: pgdial.Target(f.Target, f.TargetPasswordCommand, "pgapply"), Jobs: 4, ApplyJobs: 1,
		OnConflict: f.OnConflict, Adopt: f.Adopt, Stop: env.Stop, Log: env.Log,
		Rename: make(map[string]string)}
	// Before the program at the other end of the pipe begins anything.
	if err := r.Server.Given(); err != nil {
		return err
	}
	r.Server.Encoding = f.Encoding
	r.Meter = &meter.Meter{Doing: "loading", Log: env.Log, JSON: f.LogFormat == "json"}
	if !r.Meter.JSON {
		r.Meter.Terminal = screen.Of(env.Stderr)
	}
	r.RebuildIndexes = f.RebuildIndexes
	if f.Jobs > 0 {
		r.Jobs, r.ApplyJobs = f.Jobs, f.Jobs
	}
	if f.Constraints != "auto" {
		r.Constraints = f.Constraints
	}
	if !cli.IsTerminal(env.Stdout) {
		r.Lines = env.Stdout
	}
	for _, m := range f.Rename {
		from, to, ok := strings.Cut(m, "=")
		if !ok || from == "" || to == "" {
			return fault.New(fault.Usage, "invalid --rename %q", m).WithHint("Write --rename old=new, or --rename schema.old=schema.new.")
		}
		r.Rename[from] = to
	}
	for _, s := range f.SkipLSN {
		lsn, err := format.ParseLSN(s)
		if err != nil {
			return fault.New(fault.Usage, "--skip-lsn: %w", err)
		}
		r.SkipLSN = append(r.SkipLSN, lsn)
	}
	r.Waits = waiting.Start(ctx, r.Server, env.Log)
	defer r.Waits.Stop()
	return r.Do(ctx, in)
}

// check reads streams, and logs what they have, or returns what is wrong with them.
func check(env *cli.Env, in io.Reader) error {
	signal.Reset() // there is nothing to bring to an end
	summary, err := inspect.Check(in, func(s string) { env.Log.Warn(s) })
	if err == nil {
		env.Log.Info(summary)
	}
	return err
}

// printJSON prints the records of streams.
func printJSON(env *cli.Env, in io.Reader) error {
	signal.Reset() // a reader that has seen enough ends us
	return inspect.JSON(in, env.Stdout)
}
