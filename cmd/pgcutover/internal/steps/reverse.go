package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/wayback"
)

// The way back is a stream from the new primary to the old one. Its slot and publications must
// exist on the target before the target is opened, so that no write of the application is missed.
// It begins at the target's position after the drain, when both sides have the same rows.

// ReverseOptions choose what Reverse does instead of making the way back.
type ReverseOptions struct {
	Check bool // only report what prevents it
	Drop  bool // drop what an earlier Reverse has made
}

// Reverse makes the way back: slot, publications and state. That takes some time, so it is done
// before the fence. Open sets the position.
func Reverse(ctx context.Context, m *session.Migration, o ReverseOptions) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if s.Stream.Key.Slot == "" {
		return fault.New(fault.Config, "a load without a slot has no cutover, and no way back")
	}
	if !o.Check {
		if err := s.Exclusive(ctx); err != nil {
			return err
		}
	}
	if o.Drop && !s.Stream.Ended {
		return dropUnused(ctx, s)
	}
	b, err := findBack(ctx, s)
	if err != nil {
		return err
	}
	if s.Stream.Ended {
		return b.late(o.Drop)
	}
	if o.Check {
		return b.possible(ctx)
	}
	if err := b.make(ctx); err != nil {
		return err
	}
	m.Log.Info(fmt.Sprintf("reverse: the target has slot %q for the way back", b.name))
	return nil
}

// findBack finds the way back. It lets the session on the source write, although the source may be
// fenced.
func findBack(ctx context.Context, s *session.Session) (*back, error) {
	if _, err := s.OnSource.Exec(ctx, "SET default_transaction_read_only = off"); err != nil {
		return nil, s.Source.Explain(err)
	}
	return lookBack(ctx, s)
}

func lookBack(ctx context.Context, s *session.Session) (*back, error) {
	b := &back{Session: s, name: slot.Back(s.Slot)}
	var err error
	if b.stream, err = progress.BackOf(ctx, s.OnSource, s.Slot); err != nil {
		return nil, onSource(s, err)
	}
	return b, nil
}

// beginBack sets where the way back begins, if there is one: at the target's position, now that
// both sides have the same rows. The application waits for it, so it takes few round trips. It
// returns the stream if that waits until the source is not the primary any more.
func beginBack(ctx context.Context, s *session.Session) (waits *progress.Stream, err error) {
	began := time.Now()
	b, err := lookBack(ctx, s)
	if fault.StatusOf(err) == fault.Permission {
		return nil, nil // the state is that of another role's migration
	}
	if err != nil || b.stream == nil || !b.stream.LeadsBack() {
		return nil, err
	}
	info, err := slot.Get(ctx, b.OnTarget, b.name)
	if err != nil {
		return nil, b.Target.Explain(err)
	}
	same, err := b.sameTables(ctx)
	if err != nil {
		return nil, err
	}
	if !same || !b.current(info) { // a table was created since, or the slot is gone
		if b, err = findBack(ctx, s); err != nil {
			return nil, err
		}
		if err := b.make(ctx); err != nil {
			return nil, err
		}
	}
	lsn, err := slot.Mark(ctx, s.OnTarget, "reverse "+b.name)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	if err := progress.StartBack(ctx, s.OnSource, b.stream.ID, lsn); err != nil {
		return nil, s.Source.Explain(err)
	}
	s.Log.Info(fmt.Sprintf("reverse: the way back begins at LSN %v of the target (%v)", lsn, time.Since(began).Round(time.Millisecond)))
	if b.stream.Ended {
		waits = b.stream
	}
	return waits, nil
}

// A back is the way back from a migration.
type back struct {
	*session.Session
	name   string           // of slot and publication
	stream *progress.Stream // on the source; nil: none yet
}

// late reports on the way back of an open target. drop is set if it was to be dropped.
func (b *back) late(drop bool) error {
	leads := b.stream != nil && b.stream.LeadsBack() && b.stream.Start != 0
	switch {
	case drop && leads:
		return fault.New(fault.Config, "the target is open, and the way back is in use").
			WithHint("To end the migration and its way back: pgcutover cleanup --slot %s", b.Slot)
	case drop:
		b.Log.Info("reverse: there is no way back")
		return nil
	case leads:
		b.Log.Info(fmt.Sprintf("reverse: the way back exists, with slot %q", b.name))
		return nil
	}
	return fault.New(fault.Config, "the target is open, and there is no way back").
		WithDetail("The way back must exist before the application writes to the target.").
		WithHint("To keep the old primary current, load it again as the target of a new migration.")
}

// make creates what is missing of the way back.
func (b *back) make(ctx context.Context) error {
	info, err := slot.Get(ctx, b.OnTarget, b.name)
	if err != nil {
		return b.Target.Explain(err)
	}
	if b.current(info) {
		if same, err := b.sameTables(ctx); err != nil || same {
			return err
		}
	}
	if err := b.allowed(ctx, info); err != nil {
		return err
	}
	tables, err := b.tables(ctx)
	if err != nil {
		return err
	}
	if err := b.publish(ctx, tables); err != nil {
		return err
	}
	if err := b.createSlot(ctx, info); err != nil {
		return err
	}
	return b.record(ctx, tables)
}

// possible refuses if something prevents the way back.
func (b *back) possible(ctx context.Context) error {
	info, err := slot.Get(ctx, b.OnTarget, b.name)
	if err != nil {
		return b.Target.Explain(err)
	}
	return b.allowed(ctx, info)
}

// allowed refuses if something prevents the way back. info is its slot, or nil.
func (b *back) allowed(ctx context.Context, info *slot.Info) error {
	list, err := wayback.Find(ctx, b.OnSource, b.OnTarget, b.Slot)
	if err != nil {
		return err
	}
	if info == nil {
		return wayback.Refusal(list)
	}
	if err := b.own(ctx, info); err != nil {
		return err
	}
	return wayback.Refusal(withoutSlots(list))
}

func withoutSlots(list []wayback.Obstacle) (left []wayback.Obstacle) {
	for _, o := range list {
		if !o.Slots {
			left = append(left, o)
		}
	}
	return left
}

// migrated selects the tables of a stream on its target: t and c.
const migrated = ` FROM pgsluice.tables t JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
	WHERE t.stream_id = $1 AND t.status IN ('copied', 'indexing', 'loaded')`

// tables returns the tables of the migration, with their names in the other direction.
func (b *back) tables(ctx context.Context) ([]progress.BackTable, error) {
	rows, err := b.OnTarget.Query(ctx, "SELECT t.source_schema, t.source_table, t.schema_name, t.table_name, c.oid::pg_catalog.int8"+migrated, b.Stream.ID)
	if err != nil {
		return nil, b.Target.Explain(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t progress.BackTable, err error) {
		return t, row.Scan(&t.Schema, &t.Name, &t.SourceSchema, &t.SourceName, &t.SourceOID)
	})
	return list, b.Target.Explain(err)
}

// sameTables reports whether the way back has the tables of the migration, no more and no fewer.
func (b *back) sameTables(ctx context.Context) (bool, error) {
	var has, wants string
	err := session.Beside(func() error {
		return b.Target.Explain(b.OnTarget.QueryRow(ctx, "SELECT pg_catalog.format('%s %s', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(c.oid::pg_catalog.int8)))"+migrated, b.Stream.ID).Scan(&wants))
	}, func() error {
		return b.Source.Explain(b.OnSource.QueryRow(ctx, "SELECT pg_catalog.format('%s %s', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashint8(t.source_oid))) FROM pgsluice.tables t WHERE t.stream_id = $1", b.stream.ID).Scan(&has))
	})
	return has == wants, err
}

// publish publishes the migration's tables on the target. It adds what the target's statistics have
// counted to the tables of which only inserts are carried: sync changes nothing else in them, so
// what is counted later is the application's.
func (b *back) publish(ctx context.Context, tables []progress.BackTable) error {
	wanted := make(map[uint32]bool, len(tables))
	for _, t := range tables {
		wanted[uint32(t.SourceOID)] = true
	}
	state, err := carried.Publish(ctx, b.OnTarget, b.name, func(t *carried.Table) bool { return wanted[t.OID] })
	if carried.IsDenied(err) {
		return fault.New(fault.Permission, "could not publish the tables on the target, for the way back: %w", errors.Unwrap(err)).
			WithHint("The target's role must own the tables (GRANT their owners' roles to it). To cut over without a way back: scripts/cutover --no-reverse")
	}
	if err != nil {
		return b.Target.Explain(err)
	}
	counted, err := carried.Count(ctx, b.OnTarget, carried.Uncarried(state.Tables))
	if err != nil && !carried.IsDenied(err) {
		return b.Target.Explain(err)
	}
	for i := range tables {
		if x, ok := counted[uint32(tables[i].SourceOID)]; ok && x.Since != "" {
			tables[i].Counted = x.String()
		}
	}
	return nil
}

// slotPatience is how long to wait for the transactions on the target that a new slot waits for.
const slotPatience = 20 * time.Second

// current reports whether the way back is prepared, and its slot can be used.
func (b *back) current(info *slot.Info) bool {
	return info != nil && info.Lost() == nil && b.stream != nil && b.stream.LeadsBack()
}

// createSlot creates the slot on the target, and the stream's row on the source. It records the row
// first: that tells our slot from others. After the target was a source itself, its slot exists. It
// stays: the watch reads from it what was written to the target since.
func (b *back) createSlot(ctx context.Context, info *slot.Info) error {
	token, exists := slot.NewToken(), info != nil && info.Lost() == nil
	if exists {
		var err error
		if token, err = slot.Token(ctx, b.OnTarget, b.name, []string{b.name}); err != nil {
			return b.Target.Explain(err)
		}
	} else if info != nil {
		if err := dropSlot(ctx, turned(b.Session, nil)); err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, slotPatience)
	defer cancel()
	err := slot.Create(limited, b.Target, b.name, exists, func(id slot.Identity) (err error) {
		if err := progress.Ensure(ctx, b.OnSource); err != nil {
			return onSource(b.Session, err)
		}
		if b.stream, err = progress.OpenBack(ctx, b.OnSource, progress.Back{
			Key: progress.Key{SystemID: id.SystemID, Database: id.Database, Slot: b.name}, Of: b.Slot,
			Source: progress.Source{Token: token, Timeline: id.Timeline, History: id.History},
			Whole:  b.Stream.Whole, Without: b.Stream.Without}); err != nil {
			return b.Source.Explain(err)
		}
		_, err = slot.SetBinding(ctx, b.OnTarget, b.name, []string{b.name}, slot.Binding{Token: token})
		return b.Target.Explain(err)
	})
	if limited.Err() != nil && ctx.Err() == nil {
		return fault.New(fault.TryAgain, "could not create slot %q on the target within %v: transactions there have not ended", b.name, slotPatience).
			WithHint("To see them, on the target: SELECT pid, usename, datname, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; prepared transactions count as well. Then run the same command again.")
	}
	return err
}

// own refuses a slot that reverse has not created: of another database, or of another migration.
func (b *back) own(ctx context.Context, info *slot.Info) error {
	var database string
	if err := b.OnTarget.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&database); err != nil {
		return b.Target.Explain(err)
	}
	token, err := slot.Token(ctx, b.OnTarget, b.name, []string{b.name})
	if err != nil {
		return b.Target.Explain(err)
	}
	list, err := progress.Streams(ctx, b.OnSource, b.name)
	if err != nil {
		return onSource(b.Session, err)
	}
	recorded := func(x *progress.Stream) bool { return token != "" && x.Source.Token == token }
	if info.Database == database && (info.Plugin == slot.PGOutput || info.Plugin == slot.TestDecoding) && slices.ContainsFunc(list, recorded) {
		return nil
	}
	return fault.New(fault.Config, "slot %q exists on the target, and belongs to something else", b.name).
		WithHint("If nothing needs it, on the target: SELECT pg_catalog.pg_drop_replication_slot('%s'). To cut over without a way back: scripts/cutover --no-reverse", b.name)
}

// record records the tables on the source, and lets the source's slot carry the position of the
// stream: it tells the stream's transactions from those of others.
func (b *back) record(ctx context.Context, tables []progress.BackTable) error {
	var snapshot string
	if err := b.OnTarget.QueryRow(ctx, "SELECT pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())::pg_catalog.text").Scan(&snapshot); err != nil {
		return b.Target.Explain(err)
	}
	if err := progress.AddBackTables(ctx, b.OnSource, b.stream.ID, tables, "back@."+snapshot); err != nil {
		return b.Source.Explain(err)
	}
	if err := carried.PublishPosition(ctx, b.OnSource, b.Slot); err != nil {
		if !carried.IsDenied(err) {
			return b.Source.Explain(err)
		}
		b.Log.Warn(fmt.Sprintf("publication %q of the source cannot carry pgsluice.streams: pgcutover watch takes the writes of the way back for those of others: %v", b.Slot, err))
	}
	b.Log.Info(fmt.Sprintf("reverse: %s published on the target", count.Of(len(tables), "table")))
	return nil
}

// onSource says that an error about schema pgsluice is about the source.
func onSource(s *session.Session, err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		e := *f
		e.Err = fmt.Errorf("on the source, which is the target of the way back: %w", f.Err)
		return &e
	}
	return s.Source.Explain(err)
}
