package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/manual"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/extract"
)

func main() { os.Exit(cli.Main("pgextract", run)) }

type flags struct {
	Source                string `group:"connection" placeholder:"URI" help:"The source database: a URI or keywords. Default: PGSLUICE_SOURCE, else libpq's variables."`
	Target                string `group:"connection" placeholder:"URI" help:"The target database, which only --resume asks. Default: PGSLUICE_TARGET."`
	SourcePasswordCommand string `group:"connection" placeholder:"COMMAND" help:"Run this shell command for each connection to the source. It prints the password. Default: PGSLUICE_SOURCE_PASSWORD_COMMAND."`
	TargetPasswordCommand string `group:"connection" placeholder:"COMMAND" help:"The same for the target. Default: PGSLUICE_TARGET_PASSWORD_COMMAND."`

	Slot             string   `group:"what" placeholder:"NAME" help:"Create this replication slot, or adopt it, for continuous sync. Without a slot, no changes can follow the load."`
	Publication      string   `group:"what" placeholder:"NAME" help:"Create or adopt this publication. Default: the slot's name."`
	Plugin           string   `group:"what" enum:"auto,pgoutput,test_decoding" default:"auto" placeholder:"NAME" help:"Create the slot with this output plugin: pgoutput, or test_decoding where pgoutput is not to be had. Default: auto, which is pgoutput, and test_decoding for a source of version 9.6."`
	Failover         bool     `group:"what" help:"Let standbys synchronize the slot, so that it survives a failover. Needs 17 or newer, and sync_replication_slots = on on the standby."`
	Schema           []string `group:"what" sep:"none" placeholder:"PATTERN" help:"Read only matching schemas. Patterns are those of pg_dump. May be repeated."`
	Table            []string `group:"what" sep:"none" placeholder:"PATTERN" help:"Read only matching tables, views and sequences, with their partitions. Their schemas and types must exist on the target. May be repeated."`
	ExcludeTable     []string `group:"what" sep:"none" placeholder:"PATTERN" help:"Leave out matching tables. May be repeated."`
	ExcludeTableData []string `group:"what" sep:"none" placeholder:"PATTERN" help:"Leave out rows and changes of matching tables. May be repeated."`
	DataOnly         bool     `group:"what" help:"Leave out the schema: the target already has it."`
	NoOwner          bool     `group:"what" help:"Do not set owners."`
	NoACL            bool     `group:"what" name:"no-acl" help:"Do not set privileges."`

	Jobs     int    `group:"parallel" placeholder:"N" default:"4" help:"Read tables over this many connections. Default: 4."`
	Rate     string `group:"parallel" placeholder:"RATE" help:"Read rows at this rate over all connections together: 50MB/s. @FILE reads the rate from a file, and again after each SIGHUP. Default: unlimited."`
	Hold     bool   `group:"parallel" help:"Create slot and snapshot, print them, and hold the snapshot until interrupted. Each line is a key, a tab and a value."`
	Snapshot string `group:"parallel" placeholder:"ID" help:"Read the snapshot that another pgextract holds."`
	Part     string `group:"parallel" placeholder:"I/N" help:"Read only part I of N of the snapshot. N processes together read all of it."`

	Resume bool `group:"resume" help:"Ask the target what it has, and read only the rest."`
	Reload bool `group:"resume" help:"Empty the tables named by --table on the target, and load them again. Stop sync first."`

	Format        string `group:"output" enum:"auto,text,binary" default:"auto" placeholder:"FORMAT" help:"COPY format: auto, text or binary. Default: auto, which is binary for tables whose types allow it, but text with --data-only."`
	ForceTerminal bool   `group:"output" help:"Write the stream even to a terminal."`
	LogFormat     string `group:"output" enum:"text,json" default:"text" placeholder:"FORMAT" help:"Messages on standard error: text or json. Default: text."`

	Version kong.VersionFlag `group:"other" help:"Print version, commit and date."`
}

var about = manual.Manual{
	Does: "Write a full load of a database, schema and rows of one snapshot, as a stream to standard output.",
	Examples: []manual.Example{
		{Does: "Load a database, and keep a slot for continuous sync:", Command: "pgextract --slot mig | pgapply"},
		{Does: "Continue a load that was interrupted:", Command: "pgextract --slot mig --resume | pgapply"},
		{Does: "Read at most 50 MB in a second, to protect the source:", Command: "pgextract --slot mig --rate 50MB/s | pgapply"},
		{Does: "Load one table again, while sync is stopped:", Command: "pgextract --slot mig --table public.orders --reload | pgapply"},
	},
	Exits: map[fault.Status]string{fault.OK: "Success: the stream is complete.", fault.Data: ""},
}

func run(ctx context.Context, env *cli.Env) error {
	var f flags
	if _, err := env.Parse(&f, about); err != nil {
		return err
	}
	env.SetLogFormat(f.LogFormat)
	l, err := f.load(env)
	if err != nil {
		return err
	}
	if l.Rate, err = f.limiter(ctx, env); err != nil {
		return err
	}
	l.Waits = waiting.Start(ctx, l.Server, env.Log)
	defer l.Waits.Stop()
	// In a pipe, the last program shows the progress.
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
	// A full load has no boundary at which it could stop and be complete.
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
		return cli.ErrStopped // the last program in the pipe reports the stop
	}
	return fault.New(fault.Interrupted, "%w: the stream is not complete", cli.ErrStopped).
		WithHint("Its complete parts can be applied. Start the same command again to read everything.")
}

// load returns what the flags ask for, if they fit together.
func (f *flags) load(env *cli.Env) (*extract.Load, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	l := &extract.Load{Server: pgdial.Source(f.Source, f.SourcePasswordCommand, "pgextract"), Slot: f.Slot, Publication: f.Publication,
		Plugin: f.Plugin, Failover: f.Failover, Jobs: max(f.Jobs, 1),
		DataOnly: f.DataOnly, NoOwner: f.NoOwner, NoACL: f.NoACL, Log: env.Log}
	if f.Format != "auto" {
		l.Format = f.Format
	}
	l.Select = extract.Selection{Schemas: f.Schema, Tables: f.Table, ExcludeTables: f.ExcludeTable, ExcludeData: f.ExcludeTableData}
	l.Reload, l.Resume, l.Snapshot = f.Reload, f.Resume, f.Snapshot
	l.Target = pgdial.Target(f.Target, f.TargetPasswordCommand, "pgextract")
	if f.Part != "" {
		var err error
		if l.Part, l.Parts, err = extract.ParsePart(f.Part); err != nil {
			return nil, err
		}
	}
	if f.Resume {
		// Before anything is created on the source.
		if err := l.Target.Given(); err != nil {
			return nil, err
		}
	}
	l.Server.Standby = l.Slot == "" // which nothing follows
	return l, nil
}

// check refuses flags that contradict each other.
func (f *flags) check() error {
	if f.Slot != "" {
		if err := slot.CheckName(f.Slot); err != nil {
			return err
		}
	} else if f.Failover {
		return fault.New(fault.Usage, "--failover needs --slot").
			WithHint("Add --slot NAME, or leave out --failover: only a slot can be lost in a failover.")
	}
	switch {
	case f.Reload && len(f.Table) == 0:
		return fault.New(fault.Usage, "--reload needs --table").
			WithHint("Name the tables to empty and load again: --table public.orders --reload")
	case f.Reload && f.Resume:
		return fault.New(fault.Usage, "--reload and --resume cannot be used together")
	case f.Hold && (f.Snapshot != "" || f.Part != "" || f.Resume):
		return fault.New(fault.Usage, "--hold cannot be used together with --snapshot, --part or --resume").
			WithHint("Give these options to the processes that read the snapshot.")
	case f.Part != "" && f.Snapshot == "":
		return fault.New(fault.Usage, "--part needs --snapshot").WithHint("Create a snapshot first: pgextract --slot NAME --hold")
	}
	return nil
}
