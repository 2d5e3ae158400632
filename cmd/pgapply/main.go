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
	Target         string           `placeholder:"URI" help:"The target database: a URI or keywords. Default: PGSLUICE_TARGET, else libpq's environment."`
	Jobs           int              `placeholder:"N" help:"How many sessions write: so many indexes are built, and so many groups of changes written, at the same time. Default: 4 for indexes, 1 for changes."`
	Rename         []string         `placeholder:"OLD=NEW" help:"Apply a schema, or a table given as schema.table, under another name."`
	Constraints    string           `enum:"now,cutover,auto" default:"auto" placeholder:"WHEN" help:"When foreign keys and triggers are created: now (when everything is loaded) or cutover. Default: at cutover if the load belongs to a slot."`
	RebuildIndexes bool             `help:"If the schema was created by hand (pgextract --data-only): drop its indexes first, and build them when the rows are there."`
	Encoding       string           `placeholder:"NAME" help:"What the text of an SQL_ASCII source is encoded in. The target converts it."`
	OnConflict     string           `enum:"error,skip,overwrite" default:"error" placeholder:"POLICY" help:"What to do about a change that does not fit the target's rows: error (stop, the default), skip (leave them as they are) or overwrite (make them what the source has). What is skipped or overwritten is recorded in pgsluice.conflicts."`
	Adopt          bool             `help:"Apply changes also to a target that pgapply has not loaded: it already has the rows as of the stream's start, copied by other means."`
	SkipLSN        []string         `name:"skip-lsn" placeholder:"LSN" help:"Do not apply the transaction with this commit LSN; its changes are recorded in pgsluice.conflicts."`
	Check          bool             `help:"Change nothing and need no target: check the streams to their end, and print a summary to standard error."`
	To             string           `enum:",json" default:"" placeholder:"FORMAT" help:"Change nothing and need no target: print the records to standard output, one a line. The format is json."`
	LogFormat      string           `enum:"text,json" default:"text" placeholder:"FORMAT" help:"How messages are written to standard error: text or json."`
	Version        kong.VersionFlag `help:"Print the version."`
}

// garbage is how much of it may lie about, in percent of what is alive, before it is collected: half of Go's default. It counts when very many transactions are in
// progress at once. (A limit in bytes would be kinder to all others, but where more than that is alive, as with ten thousand tables, collecting never ends.)
const garbage = 50

func run(ctx context.Context, env *cli.Env) error {
	var f flags
	if _, err := env.Parse(&f, "Apply the streams on standard input, full loads and changes, to the target database."); err != nil {
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
		return fault.New(fault.Usage, "--check and --to cannot be used together").WithHint("--to json checks the same, but for what is missing at the end.")
	case f.Check:
		return check(env, in)
	case f.To == "json":
		return printJSON(env, in)
	}
	r := &apply.Run{Server: pgdial.Target(f.Target, "pgapply"), Jobs: 4, ApplyJobs: 1, OnConflict: f.OnConflict, Adopt: f.Adopt, Stop: env.Stop, Log: env.Log, Rename: make(map[string]string)}
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
	defer waiting.Start(ctx, r.Server, env.Log).Stop()
	return r.Do(ctx, in)
}

// check reads streams, and says what is in them or wrong with them.
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
