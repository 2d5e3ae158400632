package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// begin connects, resolves the selection, and gets the snapshot.
func (l *Load) begin(ctx context.Context) (c *pgx.Conn, id *slot.Identity, snapshot *slot.Snapshot, err error) {
	if l.Publication == "" {
		l.Publication = l.Slot
	}
	if l.Snapshot != "" {
		if l.token, err = parseToken(l.Snapshot); err != nil {
			return nil, nil, nil, err
		}
	}
	conn, err := l.Server.Connect(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if !l.again {
		l.Log.Info(identity.Line("source", conn))
		if err := l.apart(ctx, conn); err != nil {
			return nil, nil, nil, err
		}
	}
	// As long as this session lives: it is asked last, for the sequences.
	if l.probe, err = identity.Hold(ctx, conn); err != nil {
		return nil, nil, nil, l.Server.Explain(err)
	}
	if l.chosen, err = l.choose(ctx, conn); err != nil {
		return nil, nil, nil, err
	}
	if err := l.readable(ctx, conn); err != nil {
		return nil, nil, nil, err
	}
	source, err := slot.Identify(ctx, conn)
	if err != nil {
		return nil, nil, nil, l.Server.Explain(err)
	}
	if err := l.detaching(ctx, conn); err != nil {
		return nil, nil, nil, err
	}
	if l.again && !l.DataOnly {
		// Before the snapshot: what is changed all the time must be read as soon as there is one.
		if l.ddl, err = l.schema(ctx, conn, "", source.Version); err != nil {
			return nil, nil, nil, err
		}
	}
	if snapshot, err = l.snapshot(ctx, conn, &source); err != nil {
		return nil, nil, nil, err
	}
	if l.Slot != "" {
		if l.ours, err = slot.Token(ctx, conn, l.Slot, []string{l.Publication}); err != nil {
			snapshot.Release(context.WithoutCancel(ctx))
			return nil, nil, nil, l.Server.Explain(err)
		}
	}
	if l.token == nil {
		l.token = &token{name: snapshot.Name, lsn: snapshot.At, xmin: snapshot.XMin, counted: l.counted}
	}
	l.counted = l.token.counted
	return conn, &source, snapshot, nil
}
