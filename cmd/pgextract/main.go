package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/extract"
)

func main() { os.Exit(cli.Main("pgextract", run)) }

type flags struct {
	Source           string           `placeholder:"URI" help:"The source database: a URI or keywords. Default: PGSLUICE_SOURCE, else libpq's environment."`
	Slot             string           `placeholder:"NAME" help:"The replication slot that continuous sync will go on from; it is created, or adopted. Without it the load is complete in itself."`
	Publication      string           `placeholder:"NAME" help:"The publication of the tables; it is created, or adopted. Default: the slot's name."`
	Failover         bool             `help:"Have the slot copied to the source's standbys, so that it survives a failover (17 and newer; a standby copies slots if it has sync_replication_slots = on)."`
	Jobs             int              `placeholder:"N" default:"4" help:"How many connections read tables (4)."`
	Schema           []string         `sep:"none" placeholder:"PATTERN" help:"Only schemas that match, as in pg_dump. May be repeated, as may the following ones."`
	Table            []string         `sep:"none" placeholder:"PATTERN" help:"Only tables (views, sequences) that match, with their partitions; the schemas and types that they need must be on the target."`
	ExcludeTable     []string         `sep:"none" placeholder:"PATTERN" help:"Without tables that match."`
	ExcludeTableData []string         `sep:"none" placeholder:"PATTERN" help:"Without the rows of tables that match, and without their changes."`
	Resume           bool             `help:"Leave out what the target has already, which is asked for it."`
	Target           string           `placeholder:"URI" help:"The target database, for --resume. Default: PGSLUICE_TARGET."`
	Reload           bool             `help:"Have the tables, which must be named by --table, emptied on the target and loaded again. Sync must be stopped for that long."`
	Hold             bool             `help:"Make slot and snapshot, print both (a line each: what it is, a tab, the value), and hold the snapshot until interrupted, for others that read it by --snapshot."`
	Snapshot         string           `placeholder:"ID" help:"Read the snapshot that another pgextract holds."`
	Part             string           `placeholder:"I/N" help:"Read only the i-th of n parts of the snapshot, which n processes read together."`
	DataOnly         bool             `help:"Leave out the schema: it has been created on the target beforehand."`
	NoOwner          bool             `help:"Do not set the owners of objects."`
	NoACL            bool             `name:"no-acl" help:"Do not set access privileges."`
	Format           string           `enum:"auto,text,binary" default:"auto" placeholder:"FORMAT" help:"COPY format: auto (chosen for each table), text or binary."`
	ForceTerminal    bool             `help:"Write the stream even to a terminal."`
	LogFormat        string           `enum:"text,json" default:"text" placeholder:"FORMAT" help:"How messages are written to standard error: text or json."`
	Version          kong.VersionFlag `help:"Print the version."`
}

func run(ctx context.Context, env *cli.Env) error {
	var f flags
	if _, err := env.Parse(&f, "Write a full load of a database, schema and rows of one snapshot, as a stream to standard output."); err != nil {
		return err
	}
	env.SetLogFormat(f.LogFormat)
	if f.Slot != "" {
		if err := slot.CheckName(f.Slot); err != nil {
			return err
		}
	} else if f.Failover {
		return fault.New(fault.Usage, "--failover needs --slot").WithHint("Without a slot there is nothing that could be lost in a failover.")
	}
	l := &extract.Load{Server: pgdial.Source(f.Source, "pgextract"), Slot: f.Slot, Publication: f.Publication, Failover: f.Failover, Jobs: max(f.Jobs, 1),
		DataOnly: f.DataOnly, NoOwner: f.NoOwner, NoACL: f.NoACL, Log: env.Log}
	if f.Format != "auto" {
		l.Format = f.Format
	}
	l.Select = extract.Selection{Schemas: f.Schema, Tables: f.Table, ExcludeTables: f.ExcludeTable, ExcludeData: f.ExcludeTableData}
	l.Reload, l.Resume, l.Snapshot = f.Reload, f.Resume, f.Snapshot
	l.Target = pgdial.Target(f.Target, "pgextract")
	switch {
	case f.Reload && len(f.Table) == 0:
		return fault.New(fault.Usage, "--reload needs --table").WithHint("Name what is to be emptied and loaded again: --table public.orders --reload")
	case f.Reload && f.Resume:
		return fault.New(fault.Usage, "--reload and --resume contradict each other")
	case f.Hold && (f.Snapshot != "" || f.Part != "" || f.Resume):
		return fault.New(fault.Usage, "--hold makes a snapshot, and reads nothing").WithHint("Give --snapshot, --part and --resume to the processes that read it.")
	case f.Part != "" && f.Snapshot == "":
		return fault.New(fault.Usage, "--part needs --snapshot").WithHint("Get one from: pgextract --slot NAME --hold")
	case f.Part != "":
		var err error
		if l.Part, l.Parts, err = extract.ParsePart(f.Part); err != nil {
			return err
		}
	}
	if f.Resume {
		// Before anything is created on the source.
		if err := l.Target.Given(); err != nil {
			return err
		}
	}
	l.Server.Standby = l.Slot == "" // which nothing follows
	l.Waits = waiting.Start(ctx, l.Server, env.Log)
	defer l.Waits.Stop()
	// In a pipe, the program at its end shows how far it is.
	if !cli.IsPipe(env.Stdout) {
		l.Meter = &meter.Meter{Doing: "extracting", Log: env.Log, JSON: f.LogFormat == "json"}
		if !l.Meter.JSON {
			l.Meter.Terminal = screen.Of(env.Stderr)
		}
	}
	if f.Hold {
		return l.Hold(ctx, env.Stdout, env.Stop)
	}
	out, err := env.Output(f.ForceTerminal)
	if err != nil {
		return err
	}
	// There is no boundary in a full load at which stopping would leave something whole.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-env.Stop:
			cancel(cli.ErrStopped)
		case <-ctx.Done():
		}
	}()
	err = l.Run(ctx, out)
	if err == nil || context.Cause(ctx) != cli.ErrStopped {
		return err
	}
	if l.Meter == nil {
		return cli.ErrStopped // the program at the end of the pipe has the last word
	}
	return fault.New(fault.Interrupted, "%w: the stream has no end", cli.ErrStopped).WithHint("What is whole in it can be applied. For all of it, start the same command again.")
}
