// Package extract writes the stream of a full load. It creates slot and snapshot first, then writes
// the schema, the rows, and the state of sequences.
package extract

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/format"
)

// A Load says what to extract.
type Load struct {
	Server      pgdial.Server
	Slot        string // empty: a full load only, which nothing can follow
	Publication string // empty: the slot's name
	Plugin      string // the output plugin of a slot that is created
	Failover    bool   // the slot is to survive a failover of the source
	Jobs        int
	Rate        *rate.Limiter // of all connections that read rows and large objects, in bytes
	DataOnly    bool
	NoOwner     bool
	NoACL       bool
	Format      string // of COPY; empty: chosen for each table
	Select      Selection
	Reload      bool           // tables that the target has are to be emptied and loaded again
	Resume      bool           // leave out what Target has
	Target      pgdial.Server  // for Resume
	Snapshot    string         // a token, of a process that holds the snapshot
	Part, Parts int            // of those that read it; 0 if this is the only one
	Waits       *waiting.Watch // of Server
	Meter       *meter.Meter
	Log         *slog.Logger

	probe  identity.Probe // held on the source while the stream is written
	ours   string         // the token of the slot, empty if it has none
	chosen *chosen
	token  *token
	// what the source has counted, before the snapshot, of tables that are carried only in part
	counted map[uint32]carried.Counters
	have    loaded
	made    string        // what this load has made on the source and leaves there if it fails
	again   bool          // this is not the first stream
	ddl     []*format.DDL // the schema
}

// Run writes the stream of the load to out. Tables that changed before they could be read follow in
// further streams, each with a new snapshot.
func (l *Load) Run(ctx context.Context, out io.Writer) error {
	err := l.fenced(ctx, l.streams(ctx, out))
	if err != nil && l.made != "" {
		l.Log.Warn(l.made+" on the source, and remain there", "hint",
			fmt.Sprintf("To continue, with the same options as before: pgextract --slot %[1]s --resume | pgapply. "+
				"To give up: pgcutover cleanup --slot %[1]s --force", l.Slot))
	}
	return err
}

func (l *Load) streams(ctx context.Context, out io.Writer) error {
	const most = 10
	for round := 1; ; round++ {
		tables, changed, err := l.run(ctx, out)
		if err != nil || len(changed) == 0 {
			return err
		}
		e := changedError(changed)
		if round == most {
			return e.WithDetail("%d snapshots were tried.", most).
				WithHint("Keep the application from truncating or altering these tables for a moment, then start again with --resume, which skips what has been loaded.")
		}
		l.Log.Info(e.Error() + "; reading a new snapshot")
		l.leaveOut(tables, changed)
		l.token, l.again = nil, true
	}
}

func changedError(changed map[uint32]*catalog.Table) *fault.Error {
	var names []string
	for _, t := range changed {
		names = append(names, t.Schema+"."+t.Name)
	}
	slices.Sort(names)
	return fault.New(fault.TryAgain,
		"cannot read %s as of the snapshot: truncated, rewritten, altered, renamed or dropped since then",
		strings.Join(names, ", "))
}

// leaveOut makes the next stream skip the tables that this one had.
func (l *Load) leaveOut(tables []*catalog.Table, changed map[uint32]*catalog.Table) {
	if l.have == nil {
		l.have = make(loaded)
	}
	done := &progress.TableState{Status: "copied"}
	l.have[catalog.Name{Schema: "pg_catalog", Name: "pg_largeobject"}] = done
	for _, t := range tables {
		if changed[t.ID] == nil {
			l.have[catalog.Name{Schema: t.Schema, Name: t.Name}] = done
		}
	}
}

func writeError(err error) error {
	if err == nil || fault.StatusOf(err) != fault.Failed {
		return err
	}
	if cli.IsBrokenPipe(err) {
		return fault.New(fault.TryAgain, "could not write the stream: %w", err).
			WithDetail("The program that reads the stream has exited; its own message says why.")
	}
	return err
}
