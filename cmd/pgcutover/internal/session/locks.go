package session

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// Other sessions may hold a lock for any length of time. Our sessions never queue for a lock for
// long: later sessions would wait behind them in the queue and could not see why. A read-only verb
// names the session that holds the lock and continues. A verb that changes something tries again.

// Retry runs a step whose statements may have to wait for locks of other sessions. It starts the
// step again after each lock timeout, until the step succeeds or limit has passed (0: no limit).
func (m *Migration) Retry(ctx context.Context, limit time.Duration, do func() error) error {
	return m.Patiently(ctx, m.Source, limit, do)
}

// Patiently is Retry for statements on one side.
func (m *Migration) Patiently(ctx context.Context, s pgdial.Server, limit time.Duration, do func() error) error {
	return m.Locked(m.Waits[s.Side].Retry(ctx, limit, do))
}

// Locked adds the session that held the lock to an error of a statement that timed out waiting for
// that lock. It returns other errors unchanged.
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

// LocksAtOnce limits how many tables or sequences one transaction locks when there may be
// thousands. A server has room for max_locks_per_transaction × max_connections locks of all
// sessions together, and each session has 16 fast-path slots of its own.
const LocksAtOnce = 16
