// Package waiting reports what a program waits for on a server: a lock, a prepared transaction, a
// standby. It uses a session of its own, which it opens only when another session of the program
// has waited for a reply for a while. It does not know what those sessions do.
package waiting

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

const (
	// tick is the interval at which the process checks for sessions that wait for a reply.
	tick = 200 * time.Millisecond
	// soon is how long a session waits before the server is asked why. early replaces it while the
	// program runs statements that time out after LockTimeout.
	soon  = 2200 * time.Millisecond
	early = 300 * time.Millisecond
	// silent is how long a session waits before the first message, hasty replaces it where early
	// replaces soon, and again is the interval of further messages.
	silent = 2500 * time.Millisecond
	hasty  = time.Second
	again  = 30 * time.Second
	// idle is how long an unused session is kept open.
	idle = 10 * time.Second
)

// LockTimeout is how long one of our repeated statements may queue for a lock: everything behind it
// in the queue waits as long. It is longer than the server's default deadlock_timeout, after which
// a blocking autovacuum is cancelled.
const LockTimeout = "2s"

// pause is the time between two tries, in which others get the lock.
const pause = 500 * time.Millisecond

// A Watch watches the sessions of one server. A nil Watch does nothing.
type Watch struct {
	server   pgdial.Server
	sessions *pgdial.Sessions
	log      *slog.Logger
	cancel   context.CancelFunc
	done     chan struct{}

	mu       sync.Mutex
	eager    int       // number of calls of Eager
	retrying time.Time // when the oldest running Retry began; zero: none is running
	retries  int
	seen     []wait // the last waits found, at time at
	at       time.Time

	// The goroutine owns the fields below.
	conn *pgx.Conn
	used time.Time
	said map[string]time.Time
	lost bool // a warning was logged that the server cannot be asked
}

// Start watches the sessions of a server until Stop is called or ctx ends. It writes its findings
// to log.
func Start(ctx context.Context, server pgdial.Server, log *slog.Logger) *Watch {
	if server.Sessions == nil {
		return nil
	}
	w := &Watch{server: server, sessions: server.Sessions, log: log, done: make(chan struct{}), said: make(map[string]time.Time)}
	w.server.Sessions, w.server.Standby = nil, true
	ctx, w.cancel = context.WithCancel(ctx)
	go w.run(ctx)
	return w
}

// Stop ends the watch.
func (w *Watch) Stop() {
	if w != nil {
		w.cancel()
		<-w.done
	}
}

func (w *Watch) run(ctx context.Context) {
	defer close(w.done)
	defer func() { w.hangUp(ctx) }()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			w.once(ctx)
		}
	}
}

func (w *Watch) once(ctx context.Context) {
	w.mu.Lock()
	patience, quiet, retrying := soon, silent, w.retrying
	if w.eager > 0 || w.retries > 0 {
		patience, quiet = early, hasty
	}
	w.mu.Unlock()
	pids, apps, since := w.sessions.Waiting(patience)
	if len(pids)+len(apps) == 0 {
		if time.Since(w.used) > idle {
			w.hangUp(ctx)
		}
		return
	}
	if !retrying.IsZero() && retrying.Before(since) {
		since = retrying
	}
	waits, err := w.ask(ctx, pids, apps)
	if err != nil {
		w.hangUp(ctx)
		if ctx.Err() == nil && !w.lost && time.Since(since) > silent {
			w.lost = true
			w.log.Warn("the " + w.server.Side + " has not replied for a while, and could not be asked why: " + err.Error())
		}
		return
	}
	w.lost = false
	if len(waits) == 0 {
		return
	}
	w.mu.Lock()
	w.seen, w.at = waits, time.Now()
	w.mu.Unlock()
	if time.Since(since) < quiet {
		return
	}
	for i := range waits {
		x := &waits[i]
		if time.Since(w.said[x.key()]) < again {
			continue
		}
		w.said[x.key()] = time.Now()
		w.log.Warn(w.server.Side+": waiting for "+x.String(), "hint", x.hint)
	}
}

// ask asks the server what the sessions wait for.
func (w *Watch) ask(ctx context.Context, pids []int32, apps []string) ([]wait, error) {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if w.conn == nil {
		c, err := w.server.Connect(ctx)
		if err != nil {
			return nil, err
		}
		w.conn = c
		// A role may see the sessions of roles that it is a member of, but those do not see its
		// own.
		if _, err := c.Exec(ctx, "SET ROLE none"); err != nil {
			return nil, err
		}
	}
	w.used = time.Now()
	return look(ctx, w.conn, w.server.Side, pids, apps, w.sessions.PIDs())
}

func (w *Watch) hangUp(ctx context.Context) {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = w.conn.Close(ctx)
	w.conn = nil
}

// Eager has the server asked early from now on: statements time out after LockTimeout, and Explain
// needs the reason.
func (w *Watch) Eager() {
	if w != nil {
		w.mu.Lock()
		w.eager++
		w.mu.Unlock()
	}
}

// IsLockTimeout reports whether a statement failed because of lock_timeout.
func IsLockTimeout(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

// explained is a lock timeout that says who held the lock.
type explained struct{ error }

func (e explained) Unwrap() error { return e.error }

// Explain adds to a lock timeout who held the lock. It returns other errors, and those that it has
// returned, unchanged.
func (w *Watch) Explain(err error) error {
	if !IsLockTimeout(err) || errors.As(err, new(explained)) {
		return err
	}
	return explained{w.explain(err)}
}

func (w *Watch) explain(err error) error {
	if who := w.last(); who != nil {
		return fault.New(fault.TryAgain, "%s: waiting for %v: %w", w.server.Side, who, err).WithHint("%s", who.hint)
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	return fault.New(fault.TryAgain, "%w", err).
		WithHint("Another session holds a lock. Try again when it has released the lock. To find it: SELECT * FROM pg_catalog.pg_locks WHERE mode = 'AccessExclusiveLock';")
}

// Knows reports whether a session or transaction that blocks ours was seen just now.
func (w *Watch) Knows() bool { return w.last() != nil }

// last returns the last wait found, if it is recent.
func (w *Watch) last() *wait {
	const recent = 5 * time.Second
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) == 0 || time.Since(w.at) > recent {
		return nil
	}
	return &w.seen[0]
}

// Retry runs do, whose statements have a lock_timeout, and repeats it after each lock timeout,
// until limit has passed (0: forever). Meanwhile the log says who holds the lock.
func (w *Watch) Retry(ctx context.Context, limit time.Duration, do func() error) error {
	began := time.Now()
	err := do()
	if !IsLockTimeout(err) {
		return err
	}
	if w != nil {
		w.mu.Lock()
		if w.retries++; w.retries == 1 {
			w.retrying = began
		}
		w.mu.Unlock()
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.retries--; w.retries == 0 {
				w.retrying = time.Time{}
			}
		}()
	}
	for limit <= 0 || time.Since(began) < limit {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if err = do(); !IsLockTimeout(err) {
			return err
		}
	}
	return w.Explain(err)
}
