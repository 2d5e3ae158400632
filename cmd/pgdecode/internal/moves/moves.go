// Package moves keeps a slot's tables in the right publication while their changes are decoded. A
// publication with updates makes the source reject the application's UPDATE and DELETE on a table
// without a replica identity, so a table that loses its identity must move to the publication of
// inserts. The package uses a session of its own, so that decoding does not wait for it.
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
	// every is the interval between looks. With very many tables the interval grows up to seldom,
	// so that reading the catalogs takes at most one part in share of the time.
	every, seldom = time.Second, 4 * time.Second
	share         = 25
	// patience bounds one look.
	patience = 30 * time.Second
)

// A Mover moves the tables of a slot's publications.
type Mover struct {
	Server       pgdial.Server
	Slot         string
	Publications []string
	Log          *slog.Logger

	conn  *pgx.Conn
	stamp string               // of the catalogs when no move was left to make
	said  map[string]bool      // complaints already logged
	lost  map[uint32]time.Time // since when a table's changes are not carried, by OID
}

// Start watches the publications until the returned function is called, or ctx ends.
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
			// The replication session reports an unreachable source itself.
			m.hangUp(ctx)
			m.stamp = "" // the next session may be with another server
		}
		if m.conn != nil && m.conn.PgConn().ParameterStatus("is_superuser") == "on" {
			// A cutover with less rights could neither end this session nor know that it is ours.
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
		m.conn = c
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

// make makes one move and logs it. It reports whether nothing is left to do for the move until the
// catalogs change.
func (m *Mover) make(ctx context.Context, move *carried.Move) (done bool, err error) {
	// After the fence, nothing may be written to the source; a session opened before the fence
	// still could.
	if fenced, err := identity.Fenced(ctx, m.conn); fenced || err != nil {
		return true, err
	}
	err = move.Make(ctx, m.conn)
	var pg *pgconn.PgError
	switch {
	case err == nil:
		m.say(move)
		return false, nil // the move has changed the stamp
	case !errors.As(err, &pg) || pgdial.Lost(err):
		return false, err
	case pg.Code == "25006": // a standby, or the fence
		return true, nil
	case waiting.IsLockTimeout(err):
		m.complain(move, err, "Wait for the session that holds the lock, or end it. To find it on the source: SELECT * FROM pg_catalog.pg_locks WHERE mode IN ('ShareUpdateExclusiveLock', 'AccessExclusiveLock');")
		return false, nil
	case carried.IsDenied(err):
		m.complain(move, err, "On the source, as a role with the rights: "+strings.Join(move.Lacks, " "))
		// The stamp does not cover rights.
		return false, nil
	}
	m.complain(move, err, "For details: pgcutover status --slot "+m.Slot)
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
			hint = "On the source, as a role with the rights: " + strings.Join(move.Lacks, " ") + " "
		}
		m.Log.Warn(fmt.Sprintf("%v has lost its replica identity (%s): its %s no longer carried, so that the source does not reject them",
			t, t.Identity.Why(pgdial.Version(m.conn.PgConn())), not),
			"hint", hint+"Add a primary key"+full+". Then load the table again. pgcutover status --slot "+
				m.Slot+" prints the command.")
	}
	for _, t := range move.Got {
		since := ""
		if at, ok := m.lost[t.OID]; ok {
			since = " since " + at.Format("15:04:05 -07:00")
			delete(m.lost, t.OID)
		}
		m.Log.Warn(fmt.Sprintf("%v has a replica identity again: its UPDATE and DELETE are carried from now on, but those%s were not", t, since),
			"hint", "Load the table again. pgcutover status --slot "+m.Slot+" prints the command.")
	}
}

// complain logs once that a move failed.
func (m *Mover) complain(move *carried.Move, err error, hint string) {
	says := ""
	switch {
	case len(move.Lost) > 0:
		says = fmt.Sprintf("the source rejects the application's UPDATE and DELETE on %v, which has lost its replica identity but is published with updates; could not change the publication: %v",
			move.Lost[0], err)
	case len(move.Got) > 0:
		says = fmt.Sprintf("%v has a replica identity again, but its UPDATE and DELETE could not be published: %v", move.Got[0], err)
	}
	if says != "" && !m.said[says] {
		m.said[says] = true
		m.Log.Warn(says, "hint", hint)
	}
}
