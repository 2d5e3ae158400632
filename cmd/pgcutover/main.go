package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/manual"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/check"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/ddl"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/roles"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/status"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/steps"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/verify"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/watch"
)

func main() { os.Exit(cli.Main("pgcutover", run)) }

// flags lists the commands in the order in which a cutover runs them. --help keeps that order.
type flags struct {
	Source                string           `group:"connection" placeholder:"URI" help:"The source database: a URI or keywords. Default: PGSLUICE_SOURCE, else libpq's variables."`
	Target                string           `group:"connection" placeholder:"URI" help:"The target database: a URI or keywords. Default: PGSLUICE_TARGET, else libpq's variables."`
	SourcePasswordCommand string           `group:"connection" placeholder:"COMMAND" help:"Run this shell command for each connection to the source. It prints the password. Default: PGSLUICE_SOURCE_PASSWORD_COMMAND."`
	TargetPasswordCommand string           `group:"connection" placeholder:"COMMAND" help:"The same for the target. Default: PGSLUICE_TARGET_PASSWORD_COMMAND."`
	Slot                  string           `group:"connection" placeholder:"NAME" help:"The slot of the migration. Default: the only one. cleanup needs it."`
	LogFormat             string           `group:"output" enum:"text,json" default:"text" placeholder:"FORMAT" help:"Messages on standard error: text or json. Default: text."`
	Version               kong.VersionFlag `group:"other" help:"Print version, commit and date."`

	Roles struct {
		Side     string `group:"what" required:"" enum:"source,target" placeholder:"SIDE" help:"The role for which side: source or target. For the target, the source is asked for its owners."`
		Provider string `group:"what" default:"auto" enum:"auto,plain,rds,aurora,azure,cloudsql,alloydb,neon,supabase,heroku" placeholder:"NAME" help:"The service: plain, rds, aurora, azure, cloudsql, alloydb, neon, supabase or heroku. Default: auto, which recognizes it by its settings."`
		Role     string `group:"what" default:"mover" placeholder:"NAME" help:"The role's name. Default: mover."`
		Drop     bool   `group:"what" help:"Print what takes all rights back and drops the role."`
	} `cmd:"" group:"before" help:"Print the SQL that makes a role with the rights that a migration needs, and no others. Executes nothing."`
	Check struct {
		JSON   bool     `group:"output" name:"json" help:"Print each finding as a line of JSON: id, severity, side, text, remedy, statements and doc."`
		SQL    bool     `group:"output" name:"sql" help:"Print only the statements that remedy the findings, each under the side and the role to execute it."`
		Trust  []string `group:"what" placeholder:"ROLE" help:"Accept idle sessions of this superuser, as for fence. Can be repeated."`
		Plugin string   `group:"what" enum:"auto,pgoutput,test_decoding" default:"auto" placeholder:"NAME" help:"The output plugin of a slot that does not exist yet, as for pgextract. Default: auto."`
	} `cmd:"" group:"before" help:"Examine source and target. Each finding has its remedy. Changes nothing. Exits with 0 if there are only notes, with 1 if there is a warning, and with 78 if there is an error."`
	DDL struct {
		Install   struct{} `cmd:"" group:"before" help:"Write each change of the source's schema into the stream, for the target to execute. Needs a superuser."`
		Check     struct{} `cmd:"" group:"before" help:"Report whether ddl install is in force."`
		Uninstall struct{} `cmd:"" group:"after" help:"Remove what ddl install has created."`
	} `cmd:"" name:"ddl" help:"Carry changes of the schema to the target during the migration."`
	Status struct {
		JSON  bool          `group:"output" name:"json" help:"Print everything as JSON, for programs."`
		Get   string        `group:"output" placeholder:"FIELD" help:"Print one field of --json, such as state or source_slot.active. Words are printed as they are, all else as JSON. LIST.count is a list's length. Fails if the field is unknown."`
		Watch bool          `group:"output" help:"Repeat until interrupted. On a terminal, in the same place."`
		Every time.Duration `group:"output" default:"2s" placeholder:"TIME" help:"The interval of --watch. Default: 2s."`
	} `cmd:"" group:"before" help:"Show the state of the migration: lag, tables, errors, what is missing."`
	Missing struct {
		JSON         bool     `group:"output" name:"json" help:"Print each line as JSON: id, kind, name, cause, remedy and statements."`
		SQL          bool     `group:"output" name:"sql" help:"Print only the statements to execute on the target with psql."`
		Retry        bool     `group:"what" help:"First try again to create what the load could not create, unless that reads rows."`
		AllowMissing []string `group:"what" placeholder:"ID" help:"Accept this line from now on, so that it does not stop the cutover. Can be repeated."`
		AllowOrphans bool     `group:"what" help:"Do not look for rows of the source that violate foreign keys."`
	} `cmd:"" group:"before" help:"List what the target lacks or has with differences, with cause and remedy. Exits with 0 if nothing is missing, else with 1."`
	Wait struct {
		For     string        `arg:"" enum:"loaded,caught-up" help:"loaded: the full load is complete. caught-up: the target is at most --lag behind, and applies changes."`
		Lag     string        `group:"what" default:"64kB" placeholder:"SIZE" help:"How much WAL the target may be behind. Default: 64kB."`
		Timeout time.Duration `group:"other" default:"0s" placeholder:"TIME" help:"Give up after this time. Default: never."`
	} `cmd:"" group:"night" help:"Wait until the full load is complete, or the target has caught up."`
	Lock struct {
		Trust     []string      `group:"what" placeholder:"ROLE" help:"As for fence. Can be repeated."`
		Snapshots bool          `group:"what" help:"Take a snapshot of each side after drain, for verify --snapshots, and print their names behind the status. Keep them until the step verified, or the end."`
		Timeout   time.Duration `group:"other" default:"1m" placeholder:"TIME" help:"As for fence, drain and open. Default: 1m."`
	} `cmd:"" group:"night" help:"Keep other cutovers of the migration away until standard input ends. Prints the server process that holds the lock; the steps of this cutover need it as PGSLUICE_LOCK. Does the steps that it reads, a line each (ready, fence, drain, open, verified), and prints the exit status of each: ready connects and checks, so that fence closes the source at once."`
	Prepare struct {
		Timeout time.Duration `group:"other" default:"1m" placeholder:"TIME" help:"Leave for open what another session's lock blocks for so long. Default: 1m."`
	} `cmd:"" group:"night" help:"Do what can be done before the fence, while the source is in use: analyze tables, set sequences, create foreign keys and triggers where they do not act on what sync writes."`
	Rehearse struct {
		JSON         bool     `group:"output" name:"json" help:"Print the report as JSON, for programs."`
		Snapshots    bool     `group:"what" help:"Predict a cutover that takes snapshots, as lock --snapshots does."`
		AllowOrphans bool     `group:"what" help:"As for fence."`
		AllowMissing []string `group:"what" placeholder:"ID" help:"Accept this line of pgcutover missing for the rehearsal. Can be repeated."`
		Trust        []string `group:"what" placeholder:"ROLE" help:"As for fence. Can be repeated."`
	} `cmd:"" group:"night" help:"Do what the steps from fence to open do, without changing anything. Lists the sessions that would be ended, and predicts the downtime."`
	Fence struct {
		Check        bool          `group:"what" help:"Only report whether the source can be closed. It stays open."`
		AllowOrphans bool          `group:"what" help:"Close the source although its rows may violate foreign keys."`
		Trust        []string      `group:"what" placeholder:"ROLE" help:"Leave idle sessions of this superuser alone if only a superuser may end them: you know that they do not write. Can be repeated."`
		AllowMissing []string      `group:"what" placeholder:"ID" help:"Accept this line of pgcutover missing. Can be repeated."`
		Timeout      time.Duration `group:"other" default:"1m" placeholder:"TIME" help:"Give up when another session's lock blocks this step for so long. Default: 1m."`
	} `cmd:"" group:"night" help:"Stop all writes to the source until unfence. Refused while something is missing on the target."`
	Drain struct {
		Timeout time.Duration `group:"other" default:"1m" placeholder:"TIME" help:"Give up after this time. Default: 1m."`
	} `cmd:"" group:"night" help:"Wait until the target has every change of the fenced source."`
	Verify struct {
		Jobs          int     `group:"parallel" default:"2" placeholder:"N" help:"Compare this many tables at the same time. Default: 2."`
		Rate          int     `group:"parallel" placeholder:"ROWS" help:"Read at most this many rows in a second on each side. Default: as many as possible."`
		Snapshots     *string `group:"what" placeholder:"SOURCE,TARGET" help:"Compare these snapshots, which pgcutover lock --snapshots holds, instead of new ones."`
		OnlyDifferent bool    `group:"output" help:"Do not print equal tables."`
	} `cmd:"" group:"night" help:"Compare every row of every table, as of the drained source. Exits with 0 if all are equal, with 1 if rows differ, and with another status if the comparison failed."`
	Reverse struct {
		Check bool `group:"what" help:"Only report what prevents the way back. Changes nothing."`
		Drop  bool `group:"what" help:"Drop what an earlier reverse has made, before the target is open."`
	} `cmd:"" group:"night" help:"Make the way back: a slot on the target that carries the application's writes to the old primary. Before the fence; open sets where it begins."`
	Open struct {
		AllowMissing []string      `group:"what" placeholder:"ID" help:"Accept this line of pgcutover missing. Can be repeated."`
		Timeout      time.Duration `group:"other" default:"1m" placeholder:"TIME" help:"Give up when another session's lock blocks this step for so long. Default: 1m."`
	} `cmd:"" group:"night" help:"Open the target for writing: set sequences, create foreign keys and triggers, end sync."`
	Finish struct{} `cmd:"" group:"night" help:"Open, then validate foreign keys, refresh materialized views and analyze."`
	Watch  struct {
		Follow bool          `group:"what" help:"Repeat until interrupted. Print only what is new."`
		Every  time.Duration `group:"what" default:"10s" placeholder:"TIME" help:"The interval of --follow. Default: 10s."`
		JSON   bool          `group:"output" name:"json" help:"Print each report as JSON, for programs."`
		Accept string        `group:"what" placeholder:"LSN" help:"Accept what was written to the source up to this LSN, which watch prints. It is not reported again."`
	} `cmd:"" group:"after" help:"Look whether anybody has written to the source since the target has its changes. Exits with 0 if nobody has, with 1 if somebody has, and with another status if that cannot be told."`
	Unfence struct {
		Force bool `group:"what" help:"Also when the target is open. What was written to it since is not on the source."`
	} `cmd:"" group:"back" help:"Allow writes to the source again."`
	Cleanup struct {
		Force bool `group:"what" help:"Also before the cutover is finished. This gives up the migration."`
	} `cmd:"" group:"after" help:"Remove slot, publications, and the state on the target."`
}

var about = manual.Manual{
	Does: "The steps of a cutover. Each step can be repeated. scripts/cutover runs them in order.",
	Examples: []manual.Example{
		{Does: "See what prevents a migration, and what to do about it:", Command: "pgcutover check"},
		{Does: "Get the statements that remedy what check has found:", Command: "pgcutover check --sql > remedies.sql"},
		{Does: "Get the SQL for the role on the source:", Command: "pgcutover roles --side source > source-role.sql"},
		{Does: "Watch load and sync:", Command: "pgcutover status --slot mig --watch"},
		{Does: "Read one field in a script:", Command: "pgcutover status --slot mig --get state"},
		{Does: "Carry changes of the schema from now on:", Command: "pgcutover ddl install --slot mig"},
		{Does: "Get the statements that create what is missing:", Command: "pgcutover missing --slot mig --sql > missing.sql"},
		{Does: "Wait for the end of the full load:", Command: "pgcutover wait loaded --slot mig"},
		{Does: "Wait until sync is less than 1 MB behind:", Command: "pgcutover wait caught-up --slot mig --lag 1MB"},
		{Does: "Keep other cutovers away until you press Ctrl-D:", Command: "pgcutover lock --slot mig"},
		{Does: "Leave less to do for the time without writes:", Command: "pgcutover prepare --slot mig"},
		{Does: "See what the cutover would do, and how long it would take:", Command: "pgcutover rehearse --slot mig"},
		{Does: "Ask whether the source can be closed, and leave it open:", Command: "pgcutover fence --slot mig --check"},
		{Does: "Close the source:", Command: "pgcutover fence --slot mig"},
		{Does: "Close it although monitoring stays connected:", Command: "pgcutover fence --slot mig --trust azuresu"},
		{Does: "Wait for the last change:", Command: "pgcutover drain --slot mig"},
		{Does: "Print only what differs:", Command: "pgcutover verify --slot mig --only-different"},
		{Does: "Ask whether there can be a way back:", Command: "pgcutover reverse --slot mig --check"},
		{Does: "Make the way back, before the target is open:", Command: "pgcutover reverse --slot mig"},
		{Does: "Open the target:", Command: "pgcutover open --slot mig"},
		{Does: "Validate foreign keys and analyze:", Command: "pgcutover finish --slot mig"},
		{Does: "Watch the old primary for writes:", Command: "pgcutover watch --slot mig --follow"},
		{Does: "Give the source back to the application:", Command: "pgcutover unfence --slot mig"},
		{Does: "Stop carrying changes of the schema:", Command: "pgcutover ddl uninstall --slot mig"},
		{Does: "Ask whether changes of the schema are carried:", Command: "pgcutover ddl check --slot mig"},
		{Does: "Remove all traces of a finished migration:", Command: "pgcutover cleanup --slot mig"},
	},
	Exits: map[fault.Status]string{
		fault.OK:     "Success. The step is done.",
		fault.Failed: "Failure. check: a warning, but no error. verify: rows differ. missing: the list is not empty. watch, finish: the source was written to.",
		fault.Data:   "",
	},
}

// format returns the format of the flags --json and --sql: "json", "sql", or "" for people.
func format(json, sql bool) (string, error) {
	switch {
	case json && sql:
		return "", fault.New(fault.Usage, "--json and --sql exclude each other")
	case json:
		return "json", nil
	case sql:
		return "sql", nil
	}
	return "", nil
}

func run(ctx context.Context, env *cli.Env) error {
	var f flags
	k, err := env.Parse(&f, about)
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
		return fault.New(fault.Usage, "--slot is missing").
			WithHint("Use --slot NAME. To list the migrations: pgcutover status")
	}
	// No cleanup is needed: the next run repeats an interrupted step.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-env.Stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	m := &session.Migration{Source: pgdial.Source(f.Source, f.SourcePasswordCommand, "pgcutover"),
		Target: pgdial.Target(f.Target, f.TargetPasswordCommand, "pgcutover"), Slot: f.Slot, Out: env.Stdout, Log: env.Log,
		Under: os.Getenv("PGSLUICE_LOCK")}
	m.Waits = make(map[string]*waiting.Watch)
	for _, s := range []pgdial.Server{m.Source, m.Target} {
		w := waiting.Start(ctx, s, env.Log)
		defer w.Stop()
		w.Eager()
		m.Waits[s.Side] = w
	}
	m.Reports = command == "check" && !f.Check.JSON && !f.Check.SQL || command == "status"
	if err = m.Locked(f.do(ctx, m, command, env.Stdin, env.Report)); err == nil {
		err = m.Unwritten()
	}
	if err != nil {
		select {
		case <-env.Stop:
			return cli.ErrStopped
		default:
		}
	}
	return err
}

func (f *flags) do(ctx context.Context, m *session.Migration, command string, stdin io.Reader, report func(error)) error {
	switch command {
	case "check":
		as, err := format(f.Check.JSON, f.Check.SQL)
		if err != nil {
			return err
		}
		return check.Run(ctx, m, check.Options{As: as, Trust: f.Check.Trust, Plugin: f.Check.Plugin})
	case "roles":
		return roles.Print(ctx, m, roles.Options{Provider: f.Roles.Provider, Side: f.Roles.Side, Role: f.Roles.Role, Drop: f.Roles.Drop})
	case "status":
		return f.status(ctx, m)
	case "missing":
		as, err := format(f.Missing.JSON, f.Missing.SQL)
		if err != nil {
			return err
		}
		return missing.Print(ctx, m, missing.Options{As: as, Retry: f.Missing.Retry,
			AllowOrphans: f.Missing.AllowOrphans, Allow: f.Missing.AllowMissing})
	case "wait <for>":
		lag, err := humanize.ParseBytes(f.Wait.Lag)
		if err != nil {
			return fault.New(fault.Usage, "--lag: %w", err)
		}
		return steps.Wait(ctx, m, f.Wait.For, int64(lag), f.Wait.Timeout)
	case "lock":
		return steps.Lock(ctx, m, stdin, steps.LockOptions{Trust: f.Lock.Trust, Patience: f.Lock.Timeout, Report: report, Snapshot: f.Lock.Snapshots})
	case "prepare":
		return steps.Prepare(ctx, m, f.Prepare.Timeout)
	case "rehearse":
		return steps.Rehearse(ctx, m, steps.RehearseOptions{JSON: f.Rehearse.JSON, Snapshot: f.Rehearse.Snapshots,
			AllowOrphans: f.Rehearse.AllowOrphans, Allow: f.Rehearse.AllowMissing, Trust: f.Rehearse.Trust})
	case "fence":
		o := steps.FenceOptions{Check: f.Fence.Check, AllowOrphans: f.Fence.AllowOrphans, Allow: f.Fence.AllowMissing, Trust: f.Fence.Trust}
		return m.Retry(ctx, f.Fence.Timeout, func() error { return steps.Fence(ctx, m, o) })
	case "unfence":
		return m.Retry(ctx, lockPatience, func() error { return steps.Unfence(ctx, m, f.Unfence.Force) })
	case "drain":
		return steps.Drain(ctx, m, f.Drain.Timeout)
	case "reverse":
		o := steps.ReverseOptions{Check: f.Reverse.Check, Drop: f.Reverse.Drop}
		return m.Retry(ctx, lockPatience, func() error { return steps.Reverse(ctx, m, o) })
	case "open":
		return steps.Open(ctx, m, f.Open.AllowMissing, f.Open.Timeout)
	case "finish":
		return steps.Finish(ctx, m, lockPatience)
	case "watch":
		return watch.Run(ctx, m, watch.Options{Follow: f.Watch.Follow, Every: f.Watch.Every, JSON: f.Watch.JSON, Accept: f.Watch.Accept})
	case "verify":
		o := verify.Options{Jobs: max(f.Verify.Jobs, 1), Rate: max(f.Verify.Rate, 0), OnlyDifferent: f.Verify.OnlyDifferent}
		if names := f.Verify.Snapshots; names != nil {
			source, target, _ := strings.Cut(*names, ",")
			if source == "" || target == "" {
				return fault.New(fault.Usage, "--snapshots needs two names, of the source's and the target's snapshot: SOURCE,TARGET")
			}
			o.Snapshots = []string{source, target}
		}
		return verify.Run(ctx, m, o)
	case "ddl install":
		return m.Retry(ctx, lockPatience, func() error { return ddl.Install(ctx, m) })
	case "ddl uninstall":
		return m.Retry(ctx, lockPatience, func() error { return ddl.Uninstall(ctx, m) })
	case "ddl check":
		return ddl.Check(ctx, m)
	case "cleanup":
		return m.Retry(ctx, lockPatience, func() error { return steps.Cleanup(ctx, m, f.Cleanup.Force) })
	}
	return fmt.Errorf("unknown command %q", command)
}

// lockPatience limits how long a step without --timeout waits for locks of other sessions.
const lockPatience = time.Minute

// status prints the status once or repeatedly, or prints one of its fields.
func (f *flags) status(ctx context.Context, m *session.Migration) error {
	if f.Status.Get == "" {
		return status.Print(ctx, m, status.Options{JSON: f.Status.JSON, Watch: f.Status.Watch, Every: f.Status.Every})
	}
	if f.Status.JSON || f.Status.Watch {
		return fault.New(fault.Usage, "--get prints one field, once").WithHint("Leave out --json and --watch.")
	}
	return status.Get(ctx, m, f.Status.Get)
}
