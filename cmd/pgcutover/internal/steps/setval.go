package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A server that has not used a sequence in a session takes much longer to read it than to set it.
// So many sequences are read in two sessions of each side at once, unless the session has read them
// before.
const (
	readers   = 2
	readerFew = 500 // sequences for which one session is enough
)

// A setting is a value that a sequence of the target gets.
type setting struct {
	progress.SequencePair
	last   int64
	called bool
}

// setSequences sets the sequences of the target whose value is not that of the source's. It returns
// how many sequences have the source's value now.
func setSequences(ctx context.Context, s *session.Session, pairs []progress.SequencePair) (int, error) {
	list, err := different(ctx, s, pairs)
	if err != nil {
		return 0, err
	}
	return len(pairs), set(ctx, s, list)
}

// different returns the settings of the sequences whose value on the target is not the source's.
func different(ctx context.Context, s *session.Session, pairs []progress.SequencePair) (list []setting, err error) {
	states := make([]catalog.Sequence, len(pairs))
	targets := make([]uint32, len(pairs))
	for i, p := range pairs {
		states[i].Schema, states[i].Name, states[i].OID = p.SourceSchema, p.SourceName, p.Source
		targets[i] = p.Target
	}
	values := make([]map[uint32]int64, readers)
	g, gctx := errgroup.WithContext(ctx)
	each(gctx, s, g, s.Source, s.OnSource, len(pairs), func(c *pgx.Conn, _, from, to int) error {
		return catalog.SequenceStates(gctx, c, states[from:to])
	})
	each(gctx, s, g, s.Target, s.OnTarget, len(pairs), func(c *pgx.Conn, i, from, to int) (err error) {
		values[i], err = catalog.LastValues(gctx, c, targets[from:to])
		var pg *pgconn.PgError
		if errors.As(err, &pg) && !waiting.IsLockTimeout(err) && !pgdial.Lost(err) {
			values[i], err = nil, nil // all that could not be read are set
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, p := range pairs {
		x := setting{p, states[i].LastValue, states[i].IsCalled}
		same := false
		for _, v := range values {
			is, called := v[p.Target]
			same = same || called && x.called && is == x.last
		}
		if !same {
			list = append(list, x)
		}
	}
	return list, nil
}

// warm reads the sequences that open will read, so that it reads them faster in the same sessions.
func warm(ctx context.Context, s *session.Session) error {
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	pairs, err := recordedPairs(ctx, s, done)
	if err != nil || pairs == nil {
		return err
	}
	s.Warm = &session.Sequences{Stamp: session.Done(done, "prepare").Stamp, Pairs: pairs}
	_, err = different(ctx, s, pairs)
	return err
}

// each divides n items among sessions of a side, of which conn is one.
func each(ctx context.Context, s *session.Session, g *errgroup.Group, side pgdial.Server, conn *pgx.Conn, n int,
	do func(c *pgx.Conn, i, from, to int) error) {
	parts := 1
	if n > readerFew && s.Warm == nil {
		parts = readers
	}
	for i := range parts {
		g.Go(func() error {
			c := conn
			if i > 0 {
				var err error
				if c, err = s.Connect(ctx, side); err != nil {
					return err
				}
				defer c.Close(context.WithoutCancel(ctx))
			}
			return side.Explain(do(c, i, n*i/parts, n*(i+1)/parts))
		})
	}
}

// set sets sequences in one round trip. If the server refuses one, it sets them one by one. It does
// not wait for the disk: the caller's next commit on the target does, which records the step.
func set(ctx context.Context, s *session.Session, list []setting) error {
	var sql strings.Builder
	for some := range slices.Chunk(list, session.LocksAtOnce) {
		sql.WriteString("BEGIN; SET LOCAL synchronous_commit = off; " + setval(some) + "; COMMIT; ")
	}
	if len(list) == 0 {
		return nil
	}
	_, err := s.OnTarget.Exec(ctx, sql.String(), pgx.QueryExecModeSimpleProtocol)
	if err == nil {
		return nil
	}
	if s.OnTarget.IsClosed() {
		return s.Target.Explain(err)
	}
	if _, err := s.OnTarget.Exec(ctx, "ROLLBACK"); err != nil {
		return s.Target.Explain(err)
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || waiting.IsLockTimeout(err) {
		return s.Target.Explain(err)
	}
	for i := range list {
		x := &list[i]
		_, err := s.OnTarget.Exec(ctx, setval(list[i:i+1]), pgx.QueryExecModeSimpleProtocol)
		switch {
		case errors.As(err, &pg) && pg.Code == "22003":
			return fault.New(fault.Failed, "sequence %s.%s of the target cannot take the source's value %d: %w", x.Schema, x.Name, x.last, err).
				WithHint("ALTER SEQUENCE %s AS bigint (and the column that it feeds), or MAXVALUE …, on the target; then run open again.",
					text.Ident(x.Schema, x.Name))
		case err != nil:
			return s.Target.Explain(fmt.Errorf("set sequence %s.%s: %w", x.Schema, x.Name, err))
		}
	}
	return nil
}

func setval(list []setting) string {
	var b strings.Builder
	b.WriteString("SELECT pg_catalog.setval(v.o::pg_catalog.oid::pg_catalog.regclass, v.v, v.c) FROM (VALUES ")
	for i, x := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%d::pg_catalog.int8, '%d'::pg_catalog.int8, %t)", x.Target, x.last, x.called)
	}
	return b.String() + ") v(o, v, c)"
}
