package receive

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// A Line is one line of pgapply's output: a position is durable on its target, or a cutover has
// ended the stream there.
type Line struct {
	LSN    format.LSN
	Ended  bool
	Token  string // of the migration on the target; empty if there is none
	Target string // identifies the target; may be empty
}

// bound decides which lines are accepted, and keeps what they say. A slot is acknowledged for one
// target: the first whose line is accepted.
type bound struct {
	confirmed atomic.Uint64
	ended     atomic.Bool
	foreign   atomic.Pointer[fault.Error] // set by a line of another target

	mu      sync.Mutex
	known   bool         // binding has been read
	binding slot.Binding // as on the source, or as it would be if we could write there
}

// know sets the slot's binding, as read from the source.
func (b *bound) know(binding slot.Binding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known && binding.Target == "" {
		binding.Target = b.binding.Target // the source does not have it: it could not be written
	}
	b.known, b.binding = true, binding
}

// Confirm takes a line. It ignores lines that cannot answer this process's stream: those read
// before the slot was inspected, those with a position that has not been written yet, and those of
// another migration. They are left from an earlier run or belong to another stream.
func (r *Receiver) Confirm(ctx context.Context, l Line) {
	b := &r.bound
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known || l.Target == "" || b.binding.Token != "" && l.Token != b.binding.Token || l.LSN > format.LSN(r.reached.written.Load()) {
		return
	}
	if b.binding.Target == "" {
		binding, err := r.bind(ctx, slot.Binding{Token: b.binding.Token, Target: l.Target})
		if err != nil {
			return // the next line tries again; nothing has been acknowledged
		}
		b.binding = binding
	}
	if b.binding.Target != l.Target {
		b.foreign.CompareAndSwap(nil, r.otherTarget(ctx, b.binding, l.Target))
		return
	}
	if l.Ended {
		b.ended.Store(true)
	}
	if uint64(l.LSN) > b.confirmed.Load() {
		b.confirmed.Store(uint64(l.LSN))
	}
}

// bind records the target that the slot belongs to, unless another process has recorded one in the
// meantime.
func (r *Receiver) bind(ctx context.Context, want slot.Binding) (slot.Binding, error) {
	if want.Token == "" && !slices.Contains(r.Publications, r.Slot) {
		// The slot was created by hand, for a publication that other slots share. Nothing would
		// remove the line from the publication's comment when the slot is dropped.
		return want, nil
	}
	c, err := r.Server.Connect(ctx)
	if err != nil {
		return want, err
	}
	defer c.Close(ctx)
	have, err := slot.GetBinding(ctx, c, r.Slot, r.Publications)
	if err != nil || have.Target != "" {
		return have, err
	}
	set, err := slot.SetBinding(ctx, c, r.Slot, r.Publications, want)
	if err == nil && !set {
		r.Log.Info(fmt.Sprintf("could not comment on the publications of slot %s: the source does not record which target the slot belongs to", r.Slot))
	}
	return want, err
}

func (r *Receiver) otherTarget(ctx context.Context, b slot.Binding, other string) *fault.Error {
	e := fault.New(fault.Config, "slot %q belongs to another target than the one that sends confirmations", r.Slot).
		WithDetail("The slot belongs to target %s, and the confirmations come from target %s. Changes that only one of the targets has would be lost to the other.",
			b.Target, other)
	give := ""
	if c, err := r.Server.Connect(ctx); err == nil {
		give, _ = slot.Rebind(ctx, c, r.Slot, r.Publications, slot.Binding{Token: b.Token})
		_ = c.Close(ctx)
	}
	if give == "" {
		return e.WithHint("Stop the pgapply that is connected to the wrong target.")
	}
	return e.WithHint("Apply to the right target: its target_id is in pgsluice.streams. To give the slot to this target, which then must have every change that the other has, on the source: %s", give)
}
