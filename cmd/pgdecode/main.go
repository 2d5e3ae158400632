package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/lastword"
	"github.com/pgsluice/pgsluice/cmd/internal/manual"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/moves"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/outfile"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/receive"
	"github.com/pgsluice/pgsluice/format"
)

func main() { os.Exit(cli.Main("pgdecode", run)) }

type flags struct {
	Source                string `group:"connection" placeholder:"URI" help:"The source database: a URI or keywords. Default: PGSLUICE_SOURCE, else libpq's variables."`
	SourcePasswordCommand string `group:"connection" placeholder:"COMMAND" help:"Run this shell command for each connection to the source. It prints the password. Default: PGSLUICE_SOURCE_PASSWORD_COMMAND."`

	Slot        string   `group:"what" required:"" placeholder:"NAME" help:"Read this replication slot."`
	Publication []string `group:"what" placeholder:"NAME" help:"Decode this publication. May be repeated. Default: the slot's name."`
	Until       string   `group:"what" placeholder:"LSN|now" help:"Stop at the first transaction boundary at or after this LSN, or after the current one (now). Default: never."`

	ConfirmFrom string `group:"resume" placeholder:"FILE" help:"Read pgapply's output from this file or FIFO, and acknowledge to the slot the changes that are durable on the target. Without this option, the source keeps its WAL. A slot serves one target."`

	Output        string `group:"output" placeholder:"FILE" help:"Write the stream to this file, and acknowledge changes once they are on disk. Run the same command again to continue at the end of the file, even after a crash."`
	Rotate        string `group:"output" placeholder:"SIZE" help:"With --output: start a new file at this size, such as 1GB. Each name is FILE and a start LSN, and the names sort in order: cat FILE.* | pgapply."`
	ForceTerminal bool   `group:"output" help:"Write the stream even to a terminal."`
	LogFormat     string `group:"output" enum:"text,json" default:"text" placeholder:"FORMAT" help:"Messages on standard error: text or json. Default: text."`

	Version kong.VersionFlag `group:"other" help:"Print version, commit and date."`
}

var about = manual.Manual{
	Does: "Write the changes of a replication slot as a stream to standard output.",
	Examples: []manual.Example{
		{Does: "Sync continuously through a FIFO named applied; scripts/sync does the same and starts again after a failure:",
			Command: "pgdecode --slot mig --confirm-from applied | pgapply > applied"},
		{Does: "Apply the changes up to now:", Command: "pgdecode --slot mig --until now | pgapply"},
		{Does: "Keep the changes in files while the target is away:", Command: "pgdecode --slot mig --output changes.pgs --rotate 1GB"},
	},
	Exits: map[fault.Status]string{fault.OK: "Success: the stream is complete.",
		fault.Data: "The file of --output is not a stream, or is damaged."},
}

func run(ctx context.Context, env *cli.Env) error {
	var f flags
	if _, err := env.Parse(&f, about); err != nil {
		return err
	}
	// pgdecode does one thing at a time and often waits. More processors would only pass the work
	// around: measured at a thousand small transactions a second, both filters then need a fifth
	// more processor time.
	runtime.GOMAXPROCS(1)
	env.SetLogFormat(f.LogFormat)
	if err := slot.CheckName(f.Slot); err != nil {
		return err
	}
	r := &receive.Receiver{Server: pgdial.Source(f.Source, f.SourcePasswordCommand, "pgdecode"), Slot: f.Slot,
		Publications: f.Publication, Stop: env.Stop, Log: env.Log}
	if len(r.Publications) == 0 {
		r.Publications = []string{f.Slot}
	}
	r.Server.Standby = true // slot.Identity.Decodes rejects versions that cannot
	defer waiting.Start(ctx, r.Server, env.Log).Stop()
	out, err := f.output(env, r)
	if err != nil {
		return err
	}
	w := format.NewWriter(out)
	err = f.decode(ctx, env, r, w)
	if r.Keeper == nil && ctx.Err() == nil {
		whose := ""
		if f.ConfirmFrom != "" { // pgapply reads the stream
			whose = f.Slot
		}
		lastword.Write(w, format.Changes, whose, env.Name, err)
	}
	if r.Keeper != nil {
		if e := r.Keeper.Close(); err == nil {
			err = e
		}
	}
	return err
}

// decode writes the stream.
func (f *flags) decode(ctx context.Context, env *cli.Env, r *receive.Receiver, w *format.Writer) (err error) {
	// This comes first: a shell that opens a FIFO for pgapply's output blocks until pgdecode opens
	// it.
	if f.ConfirmFrom != "" {
		following, stop := context.WithCancel(ctx)
		defer stop()
		c := confirmation{take: func(l receive.Line) { r.Confirm(following, l) }}
		if err := c.follow(following, f.ConfirmFrom); err != nil {
			return err
		}
		r.Confirms = true
	} else if f.Output == "" {
		env.Log.Info("no changes are acknowledged without --confirm-from: the source keeps the WAL of slot " + f.Slot)
	}
	if r.Until, err = until(ctx, env, r, f.Until); err != nil {
		return err
	}
	mover := moves.Mover{Server: r.Server, Slot: f.Slot, Publications: slices.Clone(r.Publications), Log: env.Log}
	defer mover.Start(ctx)()
	return r.Run(ctx, w)
}

// output returns the destination of the stream: standard output, or the files of --output.
func (f *flags) output(env *cli.Env, r *receive.Receiver) (io.Writer, error) {
	switch {
	case f.Rotate != "" && f.Output == "":
		return nil, fault.New(fault.Usage, "--rotate needs --output").WithHint("Name the file with --output.")
	case f.Output == "":
		return env.Output(f.ForceTerminal)
	case f.ConfirmFrom != "":
		return nil, fault.New(fault.Usage, "--output and --confirm-from cannot be used together").
			WithHint("Leave out --confirm-from. With --output, pgdecode acknowledges changes once they are on disk.")
	}
	var rotate uint64
	if f.Rotate != "" {
		var err error
		if rotate, err = humanize.ParseBytes(f.Rotate); err != nil || rotate == 0 || rotate > math.MaxInt64 {
			return nil, fault.New(fault.Usage, "--rotate: %q is not a size", f.Rotate).WithHint("Give a size such as --rotate 1GB.")
		}
	}
	file, err := outfile.Open(f.Output, int64(rotate))
	if err != nil {
		return nil, err
	}
	r.Keeper, r.Resume = file, file.Position()
	r.Last, r.Timeline = file.Last()
	if r.Resume != 0 {
		env.Log.Info(fmt.Sprintf("%s continues after LSN %v", f.Output, r.Resume))
	}
	if file.Torn() > 0 {
		env.Log.Info(fmt.Sprintf("discarded %s of an incomplete transaction at its end, left by a crash", humanize.IBytes(uint64(file.Torn()))))
	}
	return file, nil
}

// until parses --until. For "now" it writes a message to the WAL and returns its position, so that
// every transaction committed earlier, even asynchronously, lies before it.
func until(ctx context.Context, env *cli.Env, r *receive.Receiver, s string) (format.LSN, error) {
	if s == "" {
		return 0, nil
	}
	if s != "now" {
		lsn, err := format.ParseLSN(s)
		if err != nil {
			return 0, fault.New(fault.Usage, "--until: %w", err)
		}
		return lsn, nil
	}
	c, err := r.Server.Connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	env.Log.Info(identity.Line("source", c))
	r.Named = true
	lsn, err := slot.Now(ctx, c)
	return lsn, r.Server.Explain(err)
}
