package session

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// Others may hold what we want a lock of, for as long as they like. Our sessions do not queue for
// long: what comes after them in a queue would wait, too, and nobody would know for what. What only
// looks says who stands in the way, and goes on; what changes something tries again.

// Retry runs a step whose statements may find locks of others in their way, until it is done or a
// limit has passed (0: none). It is begun anew each time.
func (m *Migration) Retry(ctx context.Context, limit time.Duration, do func() error) error {
	return m.Patiently(ctx, m.Source, limit, do)
}

// Patiently is Retry for statements of one side.
func (m *Migration) Patiently(ctx context.Context, s pgdial.Server, limit time.Duration, do func() error) error {
	return m.Locked(m.Waits[s.Side].Retry(ctx, limit, do))
}

// Locked names who stood in the way of a statement that was given up for a lock; other errors it
// returns as they are.
func (m *Migration) Locked(err error) error {
	if !waiting.IsLockTimeout(err) {
		return err
	}
	for _, side := range []string{m.Source.Side, m.Target.Side} {
		if w := m.Waits[side]; w.Knows() {
			return w.Explain(err)
		}
	}
	return m.Waits[m.Source.Side].Explain(err)
}

// LocksAtOnce is how many tables or sequences are locked by one transaction where there may be
// thousands: a server has room for max_locks_per_transaction × max_connections locks of all
// sessions together, and of 16 of them a session keeps its own.
const LocksAtOnce = 16
