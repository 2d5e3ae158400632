package steps

import (
	"context"
	"errors"
	"fmt"
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

// Reverse makes the way back. Before the drain, it creates slot, publications and state, which
// takes some time. After the drain, it sets the position, which takes a few round trips, and
// repeats only what is missing. With check, it only reports what prevents it.
func Reverse(ctx context.Context, m *session.Migration, check bool) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if s.Stream.Key.Slot == "" {
		return fault.New(fault.Config, "a load without a slot has no cutover, and no way back")
	}
	if !check {
		if err := s.Exclusive(ctx); err != nil {
			return err
		}
	}
	// The source may be fenced.
	if _, err := s.OnSource.Exec(ctx, "SET default_transaction_read_only = off"); err != nil {
		return s.Source.Explain(err)
	}
	b := &back{Session: s, name: slot.Back(s.Slot)}
	if b.stream, err = progress.BackOf(ctx, s.OnSource, s.Slot); err != nil {
		return onSource(s, err)
	}
	if s.Stream.Ended {
		return b.late()
	}
	if check {
		return b.possible(ctx)
	}
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	if !session.Finished(done, "drain") {
		if err := b.make(ctx); err != nil {
			return err
		}
		m.Log.Info(fmt.Sprintf("reverse: slot %q exists on the target; the way back begins when the target is opened", b.name))
		return nil
	}
	if _, err := drained(ctx, s); err != nil {
		return err
	}
	return s.Step(ctx, "reverse", func() (string, error) {
		if err := b.make(ctx); err != nil {
			return "", err
		}
		lsn, err := slot.Mark(ctx, s.OnTarget, "reverse "+b.name)
		if err != nil {
			return "", s.Target.Explain(err)
		}
		if err := progress.StartBack(ctx, s.OnSource, b.stream.ID, lsn); err != nil {
			return "", s.Source.Explain(err)
		}
		return fmt.Sprintf("the way back begins at LSN %v of the target, with slot %q", lsn, b.name), nil
	})
}

// A back is the way back from a migration.
type back struct {
	*session.Session
	name   string           // of slot and publication
	stream *progress.Stream // on the source; nil: none yet
}

// late reports on the way back of an open target.
func (b *back) late() error {
	if b.stream != nil && b.stream.Start != 0 {
		b.Log.Info(fmt.Sprintf("reverse: the way back exists, with slot %q", b.name))
		return nil
	}
	return fault.New(fault.Config, "the target is open, and there is no way back").
		WithDetail("The way back must exist before the application writes to the target.").
		WithHint("To keep the old primary current, load it again as the target of a new migration.")
}

// make creates what is missing of the way back.
func (b *back) make(ctx context.Context) error {
	tables, err := b.tables(ctx)
	if err != nil {
		return err
	}
	info, err := slot.Get(ctx, b.OnTarget, b.name)
	if err != nil {
		return b.Target.Explain(err)
	}
	if b.stream != nil && info != nil && info.WALStatus != "lost" {
		known, err := progress.Tables(ctx, b.OnSource, b.stream.ID)
		if err != nil {
			return b.Source.Explain(err)
		}
		if b.has(known, tables) {
			return nil
		}
	}
	if err := b.allowed(ctx, info); err != nil {
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

// tables returns the tables of the migration, with their names in the other direction.
func (b *back) tables(ctx context.Context) ([]progress.BackTable, error) {
	rows, err := b.OnTarget.Query(ctx, `SELECT t.source_schema, t.source_table, t.schema_name, t.table_name, c.oid::pg_catalog.int8 FROM pgsluice.tables t
		JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
		WHERE t.stream_id = $1 AND t.status IN ('copied', 'indexing', 'loaded')`, b.Stream.ID)
	if err != nil {
		return nil, b.Target.Explain(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t progress.BackTable, err error) {
		return t, row.Scan(&t.Schema, &t.Name, &t.SourceSchema, &t.SourceName, &t.SourceOID)
	})
	return list, b.Target.Explain(err)
}

// has reports whether all tables are recorded.
func (b *back) has(known []progress.TableInfo, tables []progress.BackTable) bool {
	there := make(map[uint32]bool, len(known))
	for _, k := range known {
		there[k.SourceOID] = true
	}
	for _, t := range tables {
		if !there[uint32(t.SourceOID)] {
			return false
		}
	}
	return true
}

// publish publishes the migration's tables on the target.
func (b *back) publish(ctx context.Context, tables []progress.BackTable) error {
	wanted := make(map[uint32]bool, len(tables))
	for _, t := range tables {
		wanted[uint32(t.SourceOID)] = true
	}
	_, err := carried.Publish(ctx, b.OnTarget, b.name, func(t *carried.Table) bool { return wanted[t.OID] })
	if carried.IsDenied(err) {
		return fault.New(fault.Permission, "could not publish the tables on the target, for the way back: %w", errors.Unwrap(err)).
			WithHint("The target's role must own the tables (GRANT their owners' roles to it). To cut over without a way back: scripts/cutover --no-reverse")
	}
	return b.Target.Explain(err)
}

// slotPatience is how long to wait for the transactions on the target that a new slot waits for.
const slotPatience = 20 * time.Second

// createSlot creates the slot on the target, and the stream's row on the source.
func (b *back) createSlot(ctx context.Context, info *slot.Info) error {
	if info != nil && info.WALStatus == "lost" {
		if _, err := b.OnTarget.Exec(ctx, "SELECT pg_catalog.pg_drop_replication_slot($1)", b.name); err != nil {
			return b.Target.Explain(err)
		}
		info = nil
	}
	publications := []string{b.name}
	token, err := slot.Token(ctx, b.OnTarget, b.name, publications)
	if err != nil {
		return b.Target.Explain(err)
	}
	if info == nil || token == "" {
		token = slot.NewToken()
		if _, err := slot.SetBinding(ctx, b.OnTarget, b.name, publications, slot.Binding{Token: token}); err != nil {
			return b.Target.Explain(err)
		}
	}
	limited, cancel := context.WithTimeout(ctx, slotPatience)
	defer cancel()
	id, err := slot.Create(limited, b.Target, b.name, info != nil)
	if limited.Err() != nil && ctx.Err() == nil {
		return fault.New(fault.TryAgain, "could not create slot %q on the target within %v: transactions there have not ended", b.name, slotPatience).
			WithHint("To see them, on the target: SELECT pid, usename, datname, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; prepared transactions count as well. Then run the same command again.")
	}
	if err != nil {
		return err
	}
	if err := progress.Ensure(ctx, b.OnSource); err != nil {
		return onSource(b.Session, err)
	}
	b.stream, err = progress.OpenBack(ctx, b.OnSource, progress.Back{
		Key: progress.Key{SystemID: id.SystemID, Database: id.Database, Slot: b.name}, Of: b.Slot,
		Source: progress.Source{Token: token, Timeline: id.Timeline, History: id.History},
		Whole:  b.Stream.Whole, Without: b.Stream.Without})
	return b.Source.Explain(err)
}

// own refuses a slot that does not belong to the target's database.
func (b *back) own(ctx context.Context, info *slot.Info) error {
	var database string
	if err := b.OnTarget.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&database); err != nil {
		return b.Target.Explain(err)
	}
	if info.Database == database && info.Plugin == "pgoutput" {
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
