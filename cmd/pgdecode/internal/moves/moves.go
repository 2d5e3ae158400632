// Package moves keeps a slot's tables in the publication where they belong while their changes are
// decoded. In one that publishes updates, the source refuses the application's UPDATE and DELETE of
// a table that has lost its replica identity: without us it would not. It looks from a session of
// its own, so that decoding does not wait for it.
package moves

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

const (
	// every is how often it is looked. A source of very many tables is asked less often, so that
	// its catalogs are read for a small part of the time.
	every, seldom = time.Second, 4 * time.Second
	share         = 25
	// patience is how long one look may take.
	patience = 30 * time.Second
)

// A Mover moves the tables of a slot's publications.
type Mover struct {
	Server       pgdial.Server
	Slot         string
	Publications []string
	Log          *slog.Logger

	conn  *pgx.Conn
	stamp string               // of when all was where it belongs, or could not be moved
	said  map[string]bool      // of what could not be done
	lost  map[uint32]time.Time // since when the changes of a table are not carried
}

// Start looks after the publications until the function that it returns is called, or ctx ends.
func (m *Mover) Start(ctx context.Context) (stop func()) {
	m.Server.Sessions, m.Server.Standby = nil, true
	m.lost, m.said = make(map[uint32]time.Time), make(map[string]bool)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.run(ctx)
	}()
	return func() { cancel(); <-done }
}

func (m *Mover) run(ctx context.Context) {
	defer m.hangUp(ctx)
	pause := every
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		began := time.Now()
		if err := m.look(ctx); err != nil {
			// The replication session says by itself that the source cannot be reached.
			m.hangUp(ctx)
		}
		pause = min(max(every, share*time.Since(began)), seldom)
	}
}

func (m *Mover) hangUp(ctx context.Context) {
	if m.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = m.conn.Close(ctx)
	m.conn = nil
}

func (m *Mover) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if m.conn == nil {
		c, err := m.Server.Connect(ctx)
		if err != nil {
			return err
		}
		m.conn, m.stamp = c, ""
		if _, err := c.Exec(ctx, "SET lock_timeout = '"+waiting.LockTimeout+"'"); err != nil {
			return err
		}
	}
	stamp, err := carried.Stamp(ctx, m.conn)
	if err != nil || stamp == m.stamp {
		return err
	}
	names := make([]string, 0, 2*len(m.Publications))
	for _, p := range m.Publications {
		names = append(names, p, slot.InsertOnly(p))
	}
	state, err := carried.Tables(ctx, m.conn, names)
	if err != nil {
		return err
	}
	settled := true
	for _, p := range m.Publications {
		for _, move := range state.Moves(p) {
			done, err := m.make(ctx, move)
			if err != nil {
				return err
			}
			settled = settled && done
		}
	}
	if settled {
		m.stamp = stamp
	}
	return nil
}

// make makes one move and says so. It reports whether there is nothing more to do about it, for as
// long as nothing changes.
func (m *Mover) make(ctx context.Context, move *carried.Move) (done bool, err error) {
	// Behind the fence nothing is written any more, which a session from before it still could.
	if fenced, err := identity.Fenced(ctx, m.conn); fenced || err != nil {
		return true, err
	}
	err = move.Make(ctx, m.conn)
	var pg *pgconn.PgError
	switch {
	case err == nil:
		m.say(move)
		return false, nil // the stamp is another one by now
	case !errors.As(err, &pg) || pgdial.Lost(err):
		return false, err
	case pg.Code == "25006": // a standby, or the fence
		return true, nil
	case waiting.IsLockTimeout(err):
		m.complain(move, err, "Whoever holds the lock has to end: SELECT * FROM pg_catalog.pg_locks WHERE mode = 'ShareUpdateExclusiveLock' OR mode = 'AccessExclusiveLock';")
		return false, nil
	case carried.IsDenied(err):
		m.complain(move, err, "On the source, as a role that may: "+strings.Join(move.Lacks, " "))
		// Rights are not in the stamp.
		return false, nil
	}
	m.complain(move, err, "Look at: pgcutover status --slot "+m.Slot)
	return false, nil
}

func (m *Mover) say(move *carried.Move) {
	now := time.Now()
	clear(m.said)
	for _, t := range move.Lost {
		m.lost[t.OID] = now
		not := "UPDATE and DELETE are"
		full := ""
		if !t.Identity.Full() {
			full = ", or ALTER TABLE " + text.Ident(t.Schema, t.Name) + " REPLICA IDENTITY FULL"
		}
		hint := ""
		if move.OnlyLeft {
			not = "changes are"
			hint = "On the source, as a role that may: " + strings.Join(move.Lacks, " ") + " "
		}
		m.Log.Warn(fmt.Sprintf("%v has lost its replica identity (%s): its %s not carried from now on, so that the source does not refuse them",
			t, t.Identity.Why(pgdial.Version(m.conn.PgConn())), not),
			"hint", hint+"Give it a primary key"+full+
				"; then it has to be loaded again: pgcutover status --slot "+m.Slot+" says how.")
	}
	for _, t := range move.Got {
		since := ""
		if at, ok := m.lost[t.OID]; ok {
			since = " since " + at.Format("15:04:05 -07:00")
			delete(m.lost, t.OID)
		}
		m.Log.Warn(fmt.Sprintf("%v has a replica identity: its UPDATE and DELETE are carried from now on. Those%s were not", t, since),
			"hint", "It has to be loaded again: pgcutover status --slot "+m.Slot+" says how.")
	}
}

// complain says once that something could not be moved.
func (m *Mover) complain(move *carried.Move, err error, hint string) {
	says := ""
	switch {
	case len(move.Lost) > 0:
		says = fmt.Sprintf("the source refuses the application's UPDATE and DELETE of %v, which has lost its replica identity, because they are published; that could not be changed: %v",
			move.Lost[0], err)
	case len(move.Got) > 0:
		says = fmt.Sprintf("%v has a replica identity, and its UPDATE and DELETE could not be published: %v", move.Got[0], err)
	}
	if says != "" && !m.said[says] {
		m.said[says] = true
		m.Log.Warn(says, "hint", hint)
	}
}
