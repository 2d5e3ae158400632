package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/steps"
)

func main() { os.Exit(cli.Main("pgcutover", run)) }

type flags struct {
	Source    string           `placeholder:"URI" help:"The source database: a URI or keywords. Default: PGSLUICE_SOURCE, else libpq's environment."`
	Target    string           `placeholder:"URI" help:"The target database. Default: PGSLUICE_TARGET, else libpq's environment."`
	Slot      string           `placeholder:"NAME" help:"The slot of the migration. Default: the only one that there is; cleanup has to be told."`
	LogFormat string           `enum:"text,json" default:"text" placeholder:"FORMAT" help:"How messages are written to standard error: text or json."`
	Version   kong.VersionFlag `help:"Print the version."`

	Check  struct{} `cmd:"" help:"Look at source, target and the pair: every finding with its remedy."`
	Status struct {
		JSON  bool          `name:"json" help:"For programs: all that is known, as JSON."`
		Get   string        `placeholder:"FIELD" help:"For scripts: print one field of what --json has, like state or source_slot.active, and nothing else: a word as it is, anything else as JSON; LIST.count is how many a list has. Fails if it cannot be known. The source is asked only for what the target does not know."`
		Watch bool          `help:"Again and again, on a terminal in the same place, until interrupted."`
		Every time.Duration `default:"2s" placeholder:"TIME" help:"How often --watch looks (2s)."`
	} `cmd:"" help:"Say how the migration stands."`
	Wait struct {
		For     string        `arg:"" enum:"loaded,caught-up" help:"loaded: the full load is complete. caught-up: the target is at most --lag behind, and takes what comes."`
		Lag     string        `default:"64kB" placeholder:"SIZE" help:"How much WAL the target may be behind (64kB)."`
		Timeout time.Duration `default:"0s" placeholder:"TIME" help:"Give up after this long. Default: never."`
	} `cmd:"" help:"Wait until the full load is complete, or the target has caught up."`
	Missing struct {
		JSON         bool     `name:"json" help:"For programs: each line with its id, kind, name, cause, remedy and statements."`
		SQL          bool     `name:"sql" help:"Only the statements that mend it, to be executed on the target by psql."`
		Retry        bool     `help:"First try again to create what the load could not create, where that reads no rows."`
		AllowMissing []string `placeholder:"ID" help:"This line may stay as it is, from now on: it holds up no cutover. May be repeated."`
	} `cmd:"" help:"Say what the target lacks of the source, or has otherwise, and what to do about it. Exits with 0 if that is nothing, with 1 if it is something."`
	Fence struct {
		Check        bool          `help:"Only look whether the source may be closed, while it stays open."`
		AllowOrphans bool          `help:"Close it although rows of it may violate foreign keys."`
		AllowMissing []string      `placeholder:"ID" help:"Go on although this line of pgcutover missing is there. May be repeated."`
		Timeout      time.Duration `default:"1m" placeholder:"TIME" help:"Give up when a lock of others has stood in the way for this long (1m)."`
	} `cmd:"" help:"Stop all writing to the source, and keep it stopped. Refused as long as something is missing on the target."`
	Unfence struct{} `cmd:"" help:"Let the source be written to again."`
	Drain   struct {
		Timeout time.Duration `default:"1m" placeholder:"TIME" help:"Give up after this long (1m)."`
	} `cmd:"" help:"Wait until the target has everything that the fenced source had."`
	Open struct {
		AllowMissing []string      `placeholder:"ID" help:"Go on although this line of pgcutover missing is there. May be repeated."`
		Timeout      time.Duration `default:"1m" placeholder:"TIME" help:"Give up when a lock of others has stood in the way for this long (1m)."`
	} `cmd:"" help:"Make the target fit for writing: sequences, foreign keys, triggers; nothing more is applied."`
	Finish struct{} `cmd:"" help:"Open, then validate foreign keys, refresh materialized views and analyze."`
	Verify struct {
		Jobs          int    `default:"2" placeholder:"N" help:"How many tables are compared at the same time (2)."`
		Ready         string `placeholder:"FILE" help:"Create this file when the snapshots are taken: from then on the target may be written to."`
		OnlyDifferent bool   `help:"Print no line for a table that is equal."`
	} `cmd:"" help:"Compare every row of every table, as of the moment when the source was drained. Exits with 0 if all are equal, with 1 if they differ, and with another status if that could not be found out."`
	DDL struct {
		Install   struct{} `cmd:"" help:"Have each statement that changes the source's schema written into the stream, to be executed on the target. Needs a superuser."`
		Uninstall struct{} `cmd:"" help:"Undo that."`
		Check     struct{} `cmd:"" help:"Say whether it is so."`
	} `cmd:"" name:"ddl" help:"Carry changes of the schema over while the migration runs."`
	Cleanup struct {
		Force bool `help:"Also if the cutover has not been finished: the migration is given up."`
	} `cmd:"" help:"Remove slot, publications, and the state on the target."`
}

func run(ctx context.Context, env *cli.Env) error {
	var f flags
	k, err := env.Parse(&f, "The steps of a cutover. Each may be repeated.")
	if err != nil {
		return err
	}
	env.SetLogFormat(f.LogFormat)
	command := k.Command()
	if f.Slot != "" {
		if err := slot.CheckName(f.Slot); err != nil {
			return err
		}
	} else if command == "cleanup" {
		return fault.New(fault.Usage, "--slot is missing").WithHint("Name the slot of the migration whose traces are to be removed; pgcutover status says which there is.")
	}
	// There is nothing to bring to an end first: a step that is interrupted is repeated.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-env.Stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	m := &steps.Migration{Source: pgdial.Source(f.Source, "pgcutover"), Target: pgdial.Target(f.Target, "pgcutover"), Slot: f.Slot, Out: env.Stdout, Log: env.Log}
	m.Waits = make(map[string]*waiting.Watch)
	for _, s := range []pgdial.Server{m.Source, m.Target} {
		w := waiting.Start(ctx, s, env.Log)
		defer w.Stop()
		w.Eager()
		m.Waits[s.Side] = w
	}
	m.Reports = command == "check" || command == "status"
	err = m.Locked(f.do(ctx, m, command))
	if err != nil {
		select {
		case <-env.Stop:
			return cli.ErrStopped
		default:
		}
	}
	return err
}

func (f *flags) do(ctx context.Context, m *steps.Migration, command string) error {
	switch command {
	case "check":
		return m.Check(ctx)
	case "status":
		return f.status(ctx, m)
	case "missing":
		as := ""
		switch {
		case f.Missing.JSON && f.Missing.SQL:
			return fault.New(fault.Usage, "--json and --sql exclude each other")
		case f.Missing.JSON:
			as = "json"
		case f.Missing.SQL:
			as = "sql"
		}
		return m.Missing(ctx, as, f.Missing.Retry, f.Missing.AllowMissing)
	case "wait <for>":
		lag, err := humanize.ParseBytes(f.Wait.Lag)
		if err != nil {
			return fault.New(fault.Usage, "--lag: %w", err)
		}
		return m.Wait(ctx, f.Wait.For, int64(lag), f.Wait.Timeout)
	case "fence":
		m.OnlyLook, m.AllowOrphans = f.Fence.Check, f.Fence.AllowOrphans
		return m.Retry(ctx, f.Fence.Timeout, func() error { return m.Fence(ctx, f.Fence.AllowMissing) })
	case "unfence":
		return m.Retry(ctx, lockPatience, func() error { return m.Unfence(ctx) })
	case "drain":
		return m.Drain(ctx, f.Drain.Timeout)
	case "open":
		return m.Open(ctx, f.Open.AllowMissing, f.Open.Timeout)
	case "finish":
		return m.Finish(ctx, lockPatience)
	case "verify":
		return m.Verify(ctx, max(f.Verify.Jobs, 1), f.Verify.OnlyDifferent, f.ready)
	case "ddl install":
		return m.Retry(ctx, lockPatience, func() error { return m.DDLInstall(ctx) })
	case "ddl uninstall":
		return m.Retry(ctx, lockPatience, func() error { return m.DDLUninstall(ctx) })
	case "ddl check":
		return m.DDLCheck(ctx)
	case "cleanup":
		return m.Retry(ctx, lockPatience, func() error { return m.Cleanup(ctx, f.Cleanup.Force) })
	}
	return fmt.Errorf("unknown command %q", command)
}

// lockPatience is how long locks of others may stand in the way of steps that have no --timeout.
const lockPatience = time.Minute

// status prints the status, once or again and again, or one field of it.
func (f *flags) status(ctx context.Context, m *steps.Migration) error {
	if f.Status.Get != "" {
		if f.Status.JSON || f.Status.Watch {
			return fault.New(fault.Usage, "--get prints one field, once").WithHint("Leave out --json and --watch.")
		}
		return m.Get(ctx, f.Status.Get)
	}
	var terminal *screen.Terminal
	if f.Status.Watch && !f.Status.JSON {
		terminal = screen.Of(m.Out)
	}
	var last *steps.Status
	for {
		s, err := m.Status(ctx)
		if err != nil {
			if terminal != nil && last != nil { // the last one stays
				terminal.Erase()
				_ = m.Text(last)
			}
			return err
		}
		last = s
		switch {
		case terminal != nil:
			m.Show(terminal, s)
		case f.Status.JSON:
			err = m.JSON(s)
		default:
			err = m.Text(s)
		}
		if cli.IsBrokenPipe(err) {
			return nil // the reader has seen what it wanted
		}
		if err != nil || !f.Status.Watch {
			return err
		}
		select {
		case <-ctx.Done():
			if terminal != nil {
				terminal.Erase()
				_ = m.Text(s)
			}
			return ctx.Err()
		case <-time.After(f.Status.Every):
		}
	}
}

// ready tells a script that the snapshots are taken.
func (f *flags) ready() {
	if f.Verify.Ready == "" {
		return
	}
	if file, err := os.Create(f.Verify.Ready); err == nil {
		_ = file.Close()
	}
}
