// Package waiting says whom a program waits for on a server. It looks from a session of its own at
// what the program's other sessions wait for: a lock, a prepared transaction, a standby. It opens
// that session only when one of the others has not been answered for a while, and does not know
// what they do.
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
	// tick is how often it is looked, in this process, whether a session is without an answer.
	tick = 200 * time.Millisecond
	// soon is after how long the server is asked why, and early the same while somebody wants to
	// know in any case, whose statements are given up after LockTimeout.
	soon  = 2200 * time.Millisecond
	early = 300 * time.Millisecond
	// silent is how long is waited without a word, and again how long after that it is said again.
	silent = 2500 * time.Millisecond
	again  = 30 * time.Second
	// idle is for how long the session is kept that nobody needs.
	idle = 10 * time.Second
)

// LockTimeout is how long a statement of ours that is tried again may queue for a lock: what comes
// after it in the queue waits for as long. It is longer than the server's default of
// deadlock_timeout, after which an autovacuum that stands in the way is cancelled.
const LockTimeout = "2s"

// pause is how long others have between two tries.
const pause = 500 * time.Millisecond

// A Watch looks after the sessions of one server. A nil Watch does not.
type Watch struct {
	server   pgdial.Server
	sessions *pgdial.Sessions
	log      *slog.Logger
	cancel   context.CancelFunc
	done     chan struct{}

	mu       sync.Mutex
	eager    int       // how many want to know early
	retrying time.Time // since when the first of those that try again does; zero: none does
	retries  int
	seen     []wait // when it was looked last and something was found, at
	at       time.Time

	// The rest is the goroutine's.
	conn *pgx.Conn
	used time.Time
	said map[string]time.Time
	lost bool // it was said that the server cannot be asked
}

// Start looks after the sessions of a server until Stop, or until ctx ends. What it finds out goes
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

// Stop ends it.
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
	patience, retrying := soon, w.retrying
	if w.eager > 0 || w.retries > 0 {
		patience = early
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
			w.log.Warn("the " + w.server.Side + " has not answered for a while, and cannot be asked why: " + err.Error())
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
	if time.Since(since) < silent {
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

// ask looks on the server.
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
		// What a role does, its members may see, but not the roles that it is a member of.
		if _, err := c.Exec(ctx, "SET ROLE none"); err != nil {
			return nil, err
		}
	}
	w.used = time.Now()
	return look(ctx, w.conn, w.server.Side, pids, apps)
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

// Eager has the server asked early from now on: statements are given up after LockTimeout, and
// Explain is to know why.
func (w *Watch) Eager() {
	if w != nil {
		w.mu.Lock()
		w.eager++
		w.mu.Unlock()
	}
}

// IsLockTimeout reports whether a statement was given up because a lock was not to be had in time.
func IsLockTimeout(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

// Explain names who stood in the way of a statement that was given up for a lock. Other errors are
// returned as they are.
func (w *Watch) Explain(err error) error {
	if !IsLockTimeout(err) {
		return err
	}
	if who := w.last(); who != nil {
		return fault.New(fault.TryAgain, "%s: waiting for %v: %w", w.server.Side, who, err).WithHint("%s", who.hint)
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	return fault.New(fault.TryAgain, "%w", err).
		WithHint("Somebody holds a lock. Try again when he has released it: SELECT * FROM pg_locks WHERE mode = 'AccessExclusiveLock'")
}

// Knows reports whether somebody was seen just now who stands in the way.
func (w *Watch) Knows() bool { return w.last() != nil }

// last returns what was found last, if that was just now.
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

// Retry runs do, statements with a lock_timeout, again and again while they are given up for a
// lock, for as long as limit (0: for ever). Meanwhile it is said who stands in the way.
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
