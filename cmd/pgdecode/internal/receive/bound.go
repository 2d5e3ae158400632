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

// A Line is what pgapply prints: that a position is durable on its target, or that a cutover has
// ended the stream there.
type Line struct {
	LSN    format.LSN
	Ended  bool
	Token  string // of the migration that the target knows; empty if it knows none
	Target string // which target that is; empty in lines of none
}

// bound decides which lines are believed, and remembers what they say. A slot is acknowledged for
// one target: the first whose line is believed.
type bound struct {
	confirmed atomic.Uint64
	ended     atomic.Bool
	foreign   atomic.Pointer[fault.Error] // a line of another target was there

	mu      sync.Mutex
	known   bool         // binding has been read
	binding slot.Binding // as it is on the source, or would be if that could be written
}

// know takes the slot's binding, as read from the source.
func (b *bound) know(binding slot.Binding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known && binding.Target == "" {
		binding.Target = b.binding.Target // it could not be written
	}
	b.known, b.binding = true, binding
}

// Confirm takes a line. What is there before the slot has been looked at was not printed because of
// anything that this process has written; nor is a position that it has not written yet. Such lines
// are of an earlier time, or of another stream. So are those of another migration.
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

// bind writes down the target that the slot belongs to, unless another process has done so
// meanwhile.
func (r *Receiver) bind(ctx context.Context, want slot.Binding) (slot.Binding, error) {
	if want.Token == "" && !slices.Contains(r.Publications, r.Slot) {
		// A slot that was made by hand, for a publication of many: nothing would take the line away
		// when the slot goes.
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
		r.Log.Info(fmt.Sprintf("the comments of the publications of slot %s cannot be written, so that nothing says which target it belongs to", r.Slot))
	}
	return want, err
}

func (r *Receiver) otherTarget(ctx context.Context, b slot.Binding, other string) *fault.Error {
	e := fault.New(fault.Config, "slot %q is acknowledged for another target than the one whose confirmations come", r.Slot).
		WithDetail("It belongs to target %s, and these are of target %s. What only one of them has would be lost to the other.",
			b.Target, other)
	give := ""
	if c, err := r.Server.Connect(ctx); err == nil {
		give, _ = slot.Rebind(ctx, c, r.Slot, r.Publications, slot.Binding{Token: b.Token})
		_ = c.Close(ctx)
	}
	if give == "" {
		return e.WithHint("Stop the program that applies to the wrong one.")
	}
	return e.WithHint("Apply to the right one (pgsluice.streams has its target_id). If the slot is to be given to this target, which then has to have all that the other has, on the source: %s", give)
}
