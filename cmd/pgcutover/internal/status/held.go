package status

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

const (
	// shortest is the shortest time over which growth is measured.
	shortest = time.Second
	// longest is how far back a repeated status measures growth.
	longest = 5 * time.Minute
)

// A sample is how much WAL the slot held back at a moment.
type sample struct {
	at       time.Time
	retained int64
}

// samples are the moments between which the growth was measured.
type samples struct{ first, latest sample }

// held returns the state of a slot, with what it and a load hold back on the source. Every role may
// see the columns that it reads.
func held(ctx context.Context, s *session.Session, info *slot.Info) (*SlotStatus, error) {
	st := slotStatus(info)
	now := sample{time.Now(), info.Retained}
	st.samples = samples{now, now}
	// pgextract names its pg_dump, too.
	err := s.OnSource.QueryRow(ctx, `SELECT pg_catalog.max(pg_catalog.age(backend_xmin))::bigint FROM pg_catalog.pg_stat_activity
		WHERE datname = pg_catalog.current_database()
		AND (application_name = 'pgextract' OR application_name ~ '^pg_dump [A-Z0-9]{8}$')`).Scan(&st.SnapshotAge)
	return st, err
}

// measures reports whether a field, or the whole status, needs the growth.
func measures(field string) bool {
	return slices.Contains([]string{"", "source_slot", "source_slot.growth_bytes_per_second", "source_slot.growth_seconds",
		"source_slot.hours_left"}, field)
}

// measure adds how fast the retained WAL grows: since the last status, if it is repeated.
func (st *Status) measure(ctx context.Context, s *session.Session, last *Status) error {
	x := st.Slots
	if x == nil || x.WALStatus == "lost" {
		return nil
	}
	if last != nil && last.Slots != nil {
		x.first = last.Slots.first
		if x.latest.at.Sub(x.first.at) > longest {
			x.first = last.Slots.latest
		}
	}
	if wait := shortest - x.latest.at.Sub(x.first.at); wait > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		info, err := slot.Get(ctx, s.OnSource, st.Slot)
		if err != nil || info == nil {
			return err
		}
		x.latest = sample{time.Now(), info.Retained}
	}
	seconds := x.latest.at.Sub(x.first.at).Seconds()
	growth := int64(float64(x.latest.retained-x.first.retained) / seconds)
	seconds = math.Round(seconds*10) / 10
	x.Growth, x.GrowthSeconds = &growth, &seconds
	if x.Safe != nil && growth > 0 {
		hours := math.Round(float64(max(*x.Safe, 0))/float64(growth)/3600*100) / 100
		x.HoursLeft = &hours
	}
	return nil
}

// holds says what the slot holds back.
func (x *SlotStatus) holds() string {
	text := humanize.Bytes(uint64(max(x.Retained, 0))) + " of WAL"
	if x.Growth != nil {
		text += " (+" + humanize.Bytes(uint64(max(*x.Growth, 0))) + "/s)"
	}
	if x.CatalogAge != nil {
		text += " and " + count.Of(*x.CatalogAge, "XID")
	}
	return text
}

// left says how long max_slot_wal_keep_size lets the slot live, if it limits the slot.
func (x *SlotStatus) left() string {
	switch {
	case x.Safe == nil:
		return ""
	case x.HoursLeft != nil:
		return fmt.Sprintf("%s more of WAL until max_slot_wal_keep_size, in %.1f hours at this rate: then the slot is lost",
			humanize.Bytes(uint64(max(*x.Safe, 0))), *x.HoursLeft)
	}
	return fmt.Sprintf("%s more of WAL until max_slot_wal_keep_size: then the slot is lost", humanize.Bytes(uint64(max(*x.Safe, 0))))
}
