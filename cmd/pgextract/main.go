package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/extract"
)

func main() { os.Exit(cli.Main("pgextract", run)) }

type flags struct {
	Source        string           `placeholder:"URI" help:"The source database: a URI or keywords. Default: PGSLUICE_SOURCE, else libpq's environment."`
	Slot          string           `placeholder:"NAME" help:"The replication slot that continuous sync will go on from; it is created, or adopted. Without it the load is complete in itself."`
	Publication   string           `placeholder:"NAME" help:"The publication of the tables; it is created, or adopted. Default: the slot's name."`
	Failover      bool             `help:"Have the slot copied to the source's standbys, so that it survives a failover (17 and newer; a standby copies slots if it has sync_replication_slots = on)."`
	Jobs          int              `placeholder:"N" default:"4" help:"How many connections read tables (4)."`
	DataOnly      bool             `help:"Leave out the schema: it has been created on the target beforehand."`
	NoOwner       bool             `help:"Do not set the owners of objects."`
	NoACL         bool             `name:"no-acl" help:"Do not set access privileges."`
	Format        string           `enum:"auto,text,binary" default:"auto" placeholder:"FORMAT" help:"COPY format: auto (chosen for each table), text or binary."`
	ForceTerminal bool             `help:"Write the stream even to a terminal."`
	LogFormat     string           `enum:"text,json" default:"text" placeholder:"FORMAT" help:"How messages are written to standard error: text or json."`
	Version       kong.VersionFlag `help:"Print the version."`
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
	out, err := env.Output(f.ForceTerminal)
	if err != nil {
		return err
	}
	l := &extract.Load{Server: pgdial.Source(f.Source, "pgextract"), Slot: f.Slot, Publication: f.Publication, Failover: f.Failover, Jobs: max(f.Jobs, 1),
		DataOnly: f.DataOnly, NoOwner: f.NoOwner, NoACL: f.NoACL, Log: env.Log}
	if f.Format != "auto" {
		l.Format = f.Format
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
	if err != nil && context.Cause(ctx) == cli.ErrStopped {
		return cli.ErrStopped
	}
	return err
}
