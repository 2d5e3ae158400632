package e2e

import (
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A relay stands between the programs and a server, and can do what networks do.
type relay struct {
	URI    string // of the database, through the relay
	server string

	silent  atomic.Bool  // nothing passes any more, while all connections stay
	budget  atomic.Int64 // after so many bytes of the server's it falls silent; 0: never
	refuses atomic.Bool  // new connections
	rate    atomic.Int64 // bytes of the server's in a second, over all connections; 0: no limit
	paced   sync.Mutex   // held while a connection waits because of the rate
	mu      sync.Mutex   // guards conns
	conns   []net.Conn
}

func newRelay(t *testing.T, db *pgtest.DB) *relay {
	t.Helper()
	u, err := url.Parse(db.URI)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{server: u.Host}
	t.Cleanup(r.cut) // after it takes no more connections
	u.Host = pgtest.Listen(t, r.take)
	r.URI = u.String()
	return r
}

func (r *relay) take(c net.Conn) {
	if r.refuses.Load() {
		_ = c.Close()
		return
	}
	s, err := net.Dial("tcp", r.server)
	if err != nil {
		_ = c.Close()
		return
	}
	r.mu.Lock()
	r.conns = append(r.conns, c, s)
	r.mu.Unlock()
	go r.pass(s, c, false)
	r.pass(c, s, true)
}

func (r *relay) pass(to, from net.Conn, counts bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if counts && r.budget.Load() > 0 && r.budget.Add(int64(-n)) <= 0 {
			r.silent.Store(true)
		}
		if r.silent.Load() {
			return
		}
		if rate := r.rate.Load(); counts && rate > 0 {
			r.paced.Lock()
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
			r.paced.Unlock()
		}
		if err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

// cut ends all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

// Told to stop, sync stops, whatever its servers do, and says what it could not do.
func TestSyncStops(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, says string
		silence    func(source, target *relay)
	}{
		{"a silent target", "for an answer from the target", func(_, target *relay) { target.silent.Store(true) }},
		{"a silent source", "", func(source, _ *relay) { source.silent.Store(true) }},
		{"a source that falls silent within a transaction", "", func(source, _ *relay) { source.budget.Store(1 << 20) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t)
			env, slot := scriptPair(t, source, target)
			s, g := newRelay(t, source), newRelay(t, target)
			slow := *env
			slow.Source, slow.Target = s.URI, g.URI
			sync := slow.Start(nil, nil, "bash", script("sync"), slot)
			source.Exec("INSERT INTO t VALUES (1000, 'y')")
			follow(t, source, target)
			c.silence(s, g)
			source.Exec("INSERT INTO t SELECT g, 'z' FROM generate_series(10000, 80000) g")
			pgtest.Wait(t, soon, "one of them is silent", func() bool { return s.silent.Load() || g.silent.Load() })
			stopSync(t, sync)
			if said := unasked(sync.Errors()); !strings.Contains(said, c.says) || c.says == "" && said != "" {
				t.Errorf("it says: %s", said)
			}
			s.cut()
			g.cut()
			sync = env.Start(nil, nil, "bash", script("sync"), slot)
			follow(t, source, target)
			stopSync(t, sync)
			pgtest.EqualTable(t, source, target, "t")
		})
	}
}

// A sync that is told to stop while a cutover ends it does the one or the other, and leaves nothing
// running or said.
func TestSyncStopsAtItsEnd(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	env, slot := scriptPair(t, source, target)
	random := rand.New(rand.NewPCG(1, 2))
	for range pgtest.Often(4, 100) {
		sync := env.Start(nil, nil, "bash", script("sync"), slot)
		pgtest.Wait(t, soon, "the slot is read", func() bool {
			return source.Query("SELECT active FROM pg_replication_slots WHERE slot_name = '"+slot+"'") == "t"
		})
		target.Exec("UPDATE pgsluice.streams SET ended_at = now()")
		ended := make(chan struct{})
		time.AfterFunc(time.Duration(random.IntN(1300))*time.Millisecond, func() {
			_ = sync.Process.Signal(syscall.SIGTERM)
			close(ended)
		})
		status := sync.Wait(soon)
		<-ended
		if said := strings.TrimSpace(unasked(sync.Errors())); status != 0 && status != 143 ||
			said != "" && said != "pgapply: the cutover has ended the stream; there is nothing more to apply" {
			t.Errorf("status %d: %s", status, said)
		}
		if left := running("PGSLUICE_TARGET=" + env.Target); left != "" {
			t.Errorf("left running:\n%s", left)
		}
		target.Exec("UPDATE pgsluice.streams SET ended_at = NULL")
	}
}

// The cutover has opened the target while sync waited for it, and the source is gone by now: sync
// ends all the same.
func TestSyncEndsWithoutSource(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	env, slot := scriptPair(t, source, target)
	s, g := newRelay(t, source), newRelay(t, target)
	env.Source, env.Target = s.URI, g.URI
	sync := env.Start(nil, nil, "bash", script("sync"), slot)
	source.Exec("INSERT INTO t VALUES (1000, 'y')")
	follow(t, source, target)
	g.refuses.Store(true)
	g.cut()
	pgtest.Wait(t, soon, "sync waits", func() bool { return strings.Contains(sync.Errors(), "the target does not answer; waiting for it") })
	target.Exec("UPDATE pgsluice.streams SET ended_at = now()")
	s.refuses.Store(true)
	s.cut()
	g.refuses.Store(false)
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("status %d: %s", status, sync.Errors())
	}
}
