package pgdial

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pair returns both ends of a connection, ours as a Gulp.
func pair(t *testing.T, network string) (*Gulp, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGulp(c)
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close(); _ = server.Close() })
	return g, server
}

// Whatever the chunks that are sent and the buffers that are read into, the bytes are the same.
func TestGulpReads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(r.Uint32())
	}
	for _, network := range []string{"tcp", "unix"} {
		for _, c := range []struct{ chunk, buffer int }{{1, 512 << 10}, {1000, 512 << 10},
			{1 << 20, 512 << 10}, {1 << 20, 100}, {70000, 7}, {5, 5}, {8 << 20, 8 << 20}} {
			for _, behind := range []bool{false, true} {
				g, server := pair(t, network)
				g.SetBehind(behind)
				n := min(len(sent), c.chunk*2000)
				go func() {
					for rest := sent[:n]; len(rest) > 0; {
						k := min(c.chunk, len(rest))
						if _, err := server.Write(rest[:k]); err != nil {
							return
						}
						rest = rest[k:]
					}
					_ = server.Close()
				}()
				var got bytes.Buffer
				buf := make([]byte, c.buffer)
				for {
					k, err := g.Read(buf)
					got.Write(buf[:k])
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if k == 0 {
						t.Fatal("nothing was read")
					}
				}
				if !bytes.Equal(got.Bytes(), sent[:n]) {
					t.Errorf("%s, chunks of %d, buffers of %d: %d of %d bytes, or others", network, c.chunk, c.buffer, got.Len(), n)
				}
				_ = g.Close()
			}
		}
	}
}

func TestGulpWrites(t *testing.T) {
	g, server := pair(t, "tcp")
	sent := bytes.Repeat([]byte("0123456789"), 2<<20)
	written := make(chan error, 1)
	go func() {
		_, err := g.Write(sent) // far more than the sockets take
		written <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("other bytes arrived, %v", err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	_ = server.Close()
	var err error
	for deadline := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = g.Write(sent)
	}
	var op *net.OpError
	if !errors.As(err, &op) || !Lost(err) {
		t.Errorf("writing to nobody: %v", err)
	}
}

func TestGulpReadable(t *testing.T) {
	g, server := pair(t, "tcp")
	if g.Readable() || g.Buffered() {
		t.Error("there is nothing to read")
	}
	if _, err := server.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if _, err := g.Read(buf); err != nil || buf[0] != 'a' {
		t.Fatalf("%q, %v", buf, err)
	}
	if !g.Readable() || !g.Buffered() {
		t.Error("there is more to read")
	}
	rest, _ := io.ReadAll(io.LimitReader(g, 2))
	if string(rest) != "bc" || g.Readable() || g.Buffered() {
		t.Errorf("%q", rest)
	}
	_ = server.Close()
	for deadline := time.Now().Add(5 * time.Second); !g.Readable(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end cannot be read")
		}
	}
}

// within fails the test unless f ends soon, with the error.
func within(t *testing.T, what string, want error, f func() error, then func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	if then != nil {
		select {
		case err := <-done:
			t.Fatalf("%s: ended at once: %v", what, err)
		case <-time.After(30 * time.Millisecond):
		}
		then()
	}
	select {
	case err := <-done:
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, not %v", what, err, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("%s: still waiting", what)
	}
}

func TestGulpDeadlines(t *testing.T) {
	g, server := pair(t, "tcp")
	read := func() error { _, err := g.Read(make([]byte, 10)); return err }
	write := func() error {
		for {
			if _, err := g.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	}
	past, soon := time.Unix(1, 0), func() time.Time { return time.Now().Add(20 * time.Millisecond) }
	for name, f := range map[string]func() error{"read": read, "write": write} {
		_ = g.SetDeadline(past)
		within(t, name+" after its deadline", os.ErrDeadlineExceeded, f, nil)
		_ = g.SetDeadline(soon())
		within(t, name+" with a deadline", os.ErrDeadlineExceeded, f, nil)
		_ = g.SetDeadline(time.Time{})
		within(t, name+" interrupted", os.ErrDeadlineExceeded, f, func() { _ = g.SetDeadline(past) })
		// Another deadline, later or none, is waited for instead.
		_ = g.SetDeadline(time.Now().Add(time.Hour))
		within(t, name+" with a nearer deadline", os.ErrDeadlineExceeded, f, func() { _ = g.SetDeadline(soon()) })
	}
	// A deadline that has passed does no harm to what comes later, nor does the one of the other
	// direction.
	if err := g.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Errorf("read: %v", err)
	}
	within(t, "write", os.ErrDeadlineExceeded, write, nil)
}

func TestGulpClose(t *testing.T) {
	g, server := pair(t, "tcp")
	within(t, "read", net.ErrClosed, func() error { _, err := g.Read(make([]byte, 10)); return err }, func() { _ = g.Close() })
	for name, f := range map[string]func() error{
		"read":     func() error { _, err := g.Read(make([]byte, 1)); return err },
		"write":    func() error { _, err := g.Write([]byte("x")); return err },
		"deadline": func() error { return g.SetDeadline(time.Now()) },
		"close":    g.Close,
	} {
		if err := f(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after close: %v", name, err)
		}
	}
	if _, err := io.ReadAll(server); err != nil {
		t.Errorf("the other end sees %v", err)
	}
	g, _ = pair(t, "tcp")
	within(t, "write", net.ErrClosed, func() error {
		for {
			if _, err := g.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	}, func() { _ = g.Close() })
	// No descriptor is left behind.
	count := func() int { l, _ := os.ReadDir("/proc/self/fd"); return len(l) }
	before := count()
	for range 50 {
		g, server := pair(t, "tcp")
		_ = g.Close()
		_ = server.Close()
	}
	if after := count(); after > before+5 {
		t.Errorf("%d descriptors were left open", after-before)
	}
}

// Naps grow while they bring too little, and shrink when the server had to wait for them to end.
func TestNaps(t *testing.T) {
	source := func(rate, sendBuffer float64) (length time.Duration, average float64) {
		n := naps{length: shortestNap}
		for range 30 {
			n.count = napsToJudge
			n.got = int(min(n.length.Seconds()*rate, sendBuffer)) * n.count
			n.judge(n.length * napsToJudge)
			average += min(rate, sendBuffer/n.length.Seconds()) / 30
		}
		return n.length, average
	}
	for _, c := range []struct {
		name             string
		rate, sendBuffer float64
		shortest, most   time.Duration
		share            float64 // of the rate
	}{
		{"many small rows", 30e6, 2.6e6, 30 * time.Millisecond, longestNap, 1},
		{"copy", 250e6, 2.6e6, shortestNap, 15 * time.Millisecond, 0.9},
		{"a small send buffer", 30e6, 200e3, shortestNap, 15 * time.Millisecond, 0.75},
		{"hardly anything", 1e3, 2.6e6, longestNap, longestNap, 1},
	} {
		length, average := source(c.rate, c.sendBuffer)
		if length < c.shortest || length > c.most || average < c.share*c.rate {
			t.Errorf("%s: naps of %v, %.0f bytes a second of %.0f", c.name, length, average, c.rate)
		}
	}
}

func TestNoNapsWhereTheyDoNotPay(t *testing.T) {
	for network, want := range map[string]bool{"tcp": true, "unix": false} {
		g, server := pair(t, network)
		g.SetBehind(true)
		go func() { _, _ = server.Write(make([]byte, 1000)); _ = server.Close() }()
		_, _ = io.ReadAll(g)
		if napped := g.naps.length != 0; napped != want {
			t.Errorf("%s: naps: %v", network, napped)
		}
	}
}
