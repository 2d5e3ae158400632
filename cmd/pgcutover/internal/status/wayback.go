package status

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// BackStatus is the state of the stream from an open target back to the old primary.
type BackStatus struct {
	// being read: scripts/sync --reverse is at work
	Active     bool       `json:"active"`
	AppliedLSN format.LSN `json:"applied_lsn"`
	LagBytes   int64      `json:"lag_bytes"`
	LagSeconds float64    `json:"lag_seconds"`
	Retained   int64      `json:"retained_wal_bytes"` // by the slot, on the target
	WALStatus  string     `json:"wal_status"`
}

// askBack adds the state of the way back. The old primary knows how far it has followed, and the
// target whether somebody reads the slot there.
func (st *Status) askBack(ctx context.Context, s *session.Session) error {
	if !st.Open || st.Slot == "" {
		return nil
	}
	stream, err := progress.BackOf(ctx, s.OnSource, st.Slot)
	if err != nil || stream == nil || !stream.LeadsBack() || stream.Start == 0 {
		return err
	}
	info, err := slot.Get(ctx, s.OnTarget, slot.Back(st.Slot))
	if err != nil {
		return s.Target.Explain(err)
	}
	if info == nil {
		st.Problems = append(st.Problems, fmt.Sprintf("slot %q does not exist on the target any more: the old primary cannot follow, and there is no way back", slot.Back(st.Slot)))
		return nil
	}
	now, err := slot.FlushLSN(ctx, s.OnTarget)
	if err != nil {
		return s.Target.Explain(err)
	}
	b := &BackStatus{Active: info.Active, AppliedLSN: stream.Applied, Retained: info.Retained, WALStatus: info.WALStatus,
		LagBytes: max(int64(now)-int64(stream.Applied), 0)}
	if b.LagBytes > 0 && stream.AppliedTime.Unix() > 0 {
		var clock time.Time
		if err := s.OnTarget.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&clock); err != nil {
			return s.Target.Explain(err)
		}
		b.LagSeconds = max(clock.Sub(stream.AppliedTime).Seconds(), 0)
	}
	st.Back = b
	return nil
}

// askLeftSlot adds the slot that the way back has left on the target, if the target was a primary
// and another cutover has left it.
func (st *Status) askLeftSlot(ctx context.Context, s *session.Session) error {
	if st.Open || st.Slot == "" || s.Stream.BackOf == "" && !s.Stream.Ended {
		return nil
	}
	info, err := slot.Get(ctx, s.OnTarget, slot.Back(st.Slot))
	if err == nil && info != nil {
		st.Left = slotStatus(info)
	}
	return s.Target.Explain(err)
}

// left adds that slot.
func (h *head) left(st *Status) {
	if st.Left == nil {
		return
	}
	h.line("left slot\t%s holds %s of WAL on the target, which was left, until it is looked at", slot.Back(st.Slot), humanize.Bytes(uint64(max(st.Left.Retained, 0))))
	h.line("\tTo look, with source and target exchanged: pgcutover watch --slot %s", text.Shell(slot.Back(st.Slot)))
}

// back adds the stream to the old primary, and who follows it.
func (h *head) back(st *Status) {
	b := st.Back
	if b == nil {
		return
	}
	follows := "the old primary follows"
	switch {
	case b.WALStatus == "lost":
		follows = "LOST, the target has removed WAL that the old primary needs; there is no way back"
	case !b.Active:
		follows = "nobody follows: scripts/sync " + text.Shell(st.Slot) + " --reverse"
	}
	h.line("way back\t%s; %s of WAL behind, %.1f s; its slot holds %s of WAL on the target", follows,
		humanize.Bytes(uint64(b.LagBytes)), b.LagSeconds, humanize.Bytes(uint64(max(b.Retained, 0))))
}
