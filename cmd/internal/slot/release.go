package slot

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/format"
)

// releaseTimeout is how long Release waits for the server to see how much WAL it may remove.
const releaseTimeout = 10 * time.Second

// Release tells the server that the commits before an LSN are not needed any more, as a reader of
// the slot does, so that it can remove their WAL. It works alike in all versions, and never passes
// the LSN. Nobody else may be reading the slot. publications are those of a slot with pgoutput.
func Release(ctx context.Context, server pgdial.Server, info *Info, publications []string, lsn format.LSN) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	repl, _, err := server.ConnectRaw(ctx, true)
	if err != nil {
		return err
	}
	defer repl.Close(context.WithoutCancel(ctx))
	at := pglogrepl.LSN(lsn)
	var o pglogrepl.StartReplicationOptions
	if info.Plugin == PGOutput {
		o.PluginArgs = []string{"proto_version '1'", "publication_names " + QuoteLiteral(QuoteAll(publications))}
	}
	if err := pglogrepl.StartReplication(ctx, repl, quoteName(info.Name), at, o); err != nil {
		return server.Explain(err)
	}
	for {
		// The position alone lets go of nothing: the server also has to read on to there, and see
		// which transactions were open.
		if err := pglogrepl.SendStandbyStatusUpdate(ctx, repl, pglogrepl.StandbyStatusUpdate{WALWritePosition: at, ReplyRequested: true}); err != nil {
			return server.Explain(err)
		}
		msg, err := repl.ReceiveMessage(ctx)
		if err != nil {
			if ctx.Err() == context.DeadlineExceeded {
				return nil // the rest is let go of next time
			}
			return server.Explain(err)
		}
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			return server.Explain(fmt.Errorf("%s", m.Message))
		case *pgproto3.CopyData:
			if arrived(m.Data, lsn) {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// arrived reports whether a message shows that the server has read the WAL up to an LSN: it sends a
// later change, or says so.
func arrived(data []byte, lsn format.LSN) bool {
	if len(data) == 0 {
		return false
	}
	if data[0] == pglogrepl.XLogDataByteID {
		return true
	}
	k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
	return err == nil && format.LSN(k.ServerWALEnd) >= lsn
}
