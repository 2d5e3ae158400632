package pgdial

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Sessions tracks a program's open sessions on one server, and which of them have been waiting for
// a reply, so that a Watch can ask the server why.
type Sessions struct {
	mu       sync.Mutex
	list     map[*line]uint32
	programs map[string]int64 // start times, by clock, of started programs by application name
	old      atomic.Bool      // the server was older than version 10
}

// Program returns the application name for a program to be started, which opens a session of its
// own, and a function to call when the program has ended. Until then its session counts as waiting.
func (s *Sessions) Program(name string) (app string, done func()) {
	if s == nil {
		return name, func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.programs == nil {
		s.programs = make(map[string]int64)
	}
	app = name + " " + rand.Text()[:8]
	s.programs[app] = clock()
	return app, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.programs, app)
	}
}

// Waiting returns the PIDs of the sessions that have been waiting for a reply for at least this
// long, the application names of programs that have run for as long, and the time at which the
// first of all these waits began.
func (s *Sessions) Waiting(patience time.Duration) (pids []int32, apps []string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	waits := func(asked int64) bool {
		if asked == 0 || now-asked < int64(patience) {
			return false
		}
		if at := began.Add(time.Duration(asked)); since.IsZero() || at.Before(since) {
			since = at
		}
		return true
	}
	for l, pid := range s.list {
		if waits(l.asked.Load()) {
			pids = append(pids, int32(pid))
		}
	}
	for app, asked := range s.programs {
		if waits(asked) {
			apps = append(apps, app)
		}
	}
	return pids, apps, since
}

// PIDs returns the PIDs of all sessions.
func (s *Sessions) PIDs() (pids []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pid := range s.list {
		pids = append(pids, int32(pid))
	}
	return pids
}

// follow wraps the connections of a config in lines.
func (s Server) follow(c *pgconn.Config) {
	if s.Sessions == nil {
		return
	}
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &line{Conn: conn, of: s.Sessions}, nil
	}
}

// add registers a session with its server process.
func (s *Sessions) add(c net.Conn, pid uint32) {
	for {
		t, ok := c.(interface{ NetConn() net.Conn }) // TLS, or a translation
		if !ok {
			break
		}
		c = t.NetConn()
	}
	l, ok := c.(*line)
	if !ok || s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.closed {
		return
	}
	if s.list == nil {
		s.list = make(map[*line]uint32)
	}
	s.list[l] = pid
}

func (s *Sessions) remove(l *line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.closed = true
	delete(s.list, l)
}

// A line is a connection that records since when a reply has been outstanding.
type line struct {
	net.Conn
	of     *Sessions
	asked  atomic.Int64 // by clock; 0: no reply is outstanding
	closed bool         // guarded by of
}

var began = time.Now()

// clock returns the time since the program started, never 0.
func clock() int64 { return max(int64(time.Since(began)), 1) }

func (l *line) Write(p []byte) (int, error) {
	l.asked.Store(clock())
	return l.Conn.Write(p)
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.asked.Store(0)
	}
	return n, err
}

func (l *line) Close() error {
	l.of.remove(l)
	return l.Conn.Close()
}

// Readable reports whether input is waiting, as far as the connection can tell.
func (l *line) Readable() bool {
	r, ok := l.Conn.(interface{ Readable() bool })
	return ok && r.Readable()
}
