package pgdial

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsluice/pgsluice/cmd/internal/ready"
)

// A Gulp is a connection that can read in few large gulps.
//
// A server sends a message for every row and flushes each one; sending it by itself costs the
// server more than making it. While SetBehind is in force, Read therefore leaves the socket alone
// for a while whenever it has emptied it: it takes a nap. The server fills the socket's window and
// goes on into its own send buffer, where rows are packed together for nothing, and Read then takes
// all that at once. While it is not in force, and over a Unix socket, which packs nothing, Read
// returns whatever there is as soon as it is there.
//
// Go's network poller would spoil this: it is woken by everything that arrives on a socket that it
// knows, whether or not anybody reads. So the socket is taken away from it, and listened to only
// while there is nothing else to do.
type Gulp struct {
	orig net.Conn // for addresses
	fd   int

	behind atomic.Bool
	once   sync.Once
	mayNap bool // it pays on this kind of socket
	empty  bool // the last read has taken all there was
	naps   naps

	buf  []byte // for small reads
	r, w int

	read, write *ready.Waiter

	mu     sync.Mutex // guards the rest
	users  int
	closed bool
}

const (
	gulpSize = 1 << 20
	// emptied is how little a read must return for the socket to count as empty: less than the
	// window.
	emptied = 32 << 10
	// smallWindow keeps what can be sent row by row small. Over a long way it would bound the
	// throughput, so it is for short ones only: at half a millisecond it allows 250 MB a second.
	smallWindow = 64 << 10
	shortWay    = 500 * time.Microsecond
	// breath is about what a server needs for the rows of a small transaction.
	breath = 100 * time.Microsecond
)

// Naps are to be so long that much arrives at once, and not so long that the server's send buffer
// is full before they end, whose size nobody tells us: the rate at which bytes arrive does.
type naps struct {
	length time.Duration
	count  int       // with this length
	got    int       // bytes, since the first of them
	began  time.Time // when the first of them did

	best float64       // bytes a second, the most of late
	with time.Duration // the length that has brought them
}

const (
	// Measured with 200,000 small transactions from a server on the same machine, or over an
	// Ethernet: 7 to 9 s without naps or with naps of 1 ms, which end before the window is full,
	// 3.5 to 7 s with 5 or 10 ms, 3.3 s with 20 ms and more.
	shortestNap, longestNap = 5 * time.Millisecond, 40 * time.Millisecond
	// A nap should gather this much. Linux lets a send buffer grow to 4 MB unless told otherwise.
	napSize = 2 << 20
	// What a single nap brings says little: a part of it often comes with the next one.
	napsToJudge = 5
)

// take takes a nap.
func (n *naps) take() {
	if n.length == 0 {
		*n = naps{length: shortestNap, began: time.Now()}
	}
	if n.count == napsToJudge {
		n.judge(time.Since(n.began))
		n.count, n.got, n.began = 0, 0, time.Now()
	}
	n.count++
	time.Sleep(n.length)
}

// judge chooses the length of the next naps from what the last ones have brought in so much time.
func (n *naps) judge(elapsed time.Duration) {
	rate := float64(n.got) / elapsed.Seconds()
	if n.best *= 0.99; rate >= n.best {
		n.best, n.with = rate, n.length
	}
	switch got := n.got / n.count; {
	case rate < 0.8*n.best && n.length != n.with:
		// too long, so that the server had to wait, or too short
		n.length = n.with
	case rate < 0.8*n.best: // it is not the length
		n.best = rate
	case got < napSize:
		n.length = n.length * 5 / 4
	case got > 2*napSize:
		n.length = n.length * 2 / 3
	}
	n.length = min(max(n.length, shortestNap), longestNap)
}

// shrink makes the window small if the server is near.
func (g *Gulp) shrink() {
	if info, err := unix.GetsockoptTCPInfo(g.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil &&
		time.Duration(info.Rtt)*time.Microsecond < shortWay {
		_ = unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, smallWindow)
	}
}

// deadAfter is how long a peer may leave unacknowledged what is sent to it. Linux would wait for a
// quarter of an hour.
const deadAfter = time.Minute

// expectAnswers has the kernel give the connection up when the other side has not acknowledged
// anything for so long: when its machine, or the way there, is gone. It is for sessions that send
// little: one that has filled the other side's window would be given up, too.
func (g *Gulp) expectAnswers() {
	_ = unix.SetsockoptInt(g.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
}

func newGulp(c net.Conn) (*Gulp, error) {
	f, ok := c.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, errors.New("not a socket")
	}
	file, err := f.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	g := &Gulp{orig: c, fd: fd, mayNap: c.LocalAddr().Network() == "tcp"}
	if g.read, err = ready.New(fd, ready.In); err == nil {
		g.write, err = ready.New(fd, ready.Out)
	}
	if err != nil {
		g.closeFiles()
		return nil, err
	}
	// This takes the socket out of the poller; our own descriptor keeps the connection open.
	return g, c.Close()
}

// Breathe waits for a moment, unless a backlog is to be read. The server is in the middle of a
// transaction of which it sends row by row: it needs less than that for a small one, and whoever
// waits for each row wakes up as often.
func (g *Gulp) Breathe() {
	if !g.behind.Load() {
		// Go's own timers would make a whole millisecond of it.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: breath.Nanoseconds()}, nil)
	}
}

// SetBehind says whether there is a backlog to read, so that throughput counts and not latency.
func (g *Gulp) SetBehind(v bool) {
	if v = v && g.mayNap; v && !g.behind.Load() {
		g.once.Do(g.shrink)
	}
	g.behind.Store(v)
}

// use keeps the descriptor from being closed while a system call uses it.
func (g *Gulp) use() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	g.users++
	return nil
}

func (g *Gulp) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

func (g *Gulp) release() {
	g.mu.Lock()
	g.users--
	last := g.closed && g.users == 0
	g.mu.Unlock()
	if last {
		g.closeFiles()
	}
}

func (g *Gulp) closeFiles() {
	for _, w := range []*ready.Waiter{g.read, g.write} {
		if w != nil {
			_ = w.Close()
		}
	}
	_ = unix.Close(g.fd)
}

// Read reads into p, directly if p is large.
func (g *Gulp) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if g.r == g.w {
		if len(p) >= gulpSize/8 {
			return g.recv(p)
		}
		if g.buf == nil {
			g.buf = make([]byte, gulpSize)
		}
		n, err := g.recv(g.buf)
		g.r, g.w = 0, n
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, g.buf[g.r:g.w])
	g.r += n
	return n, nil
}

// Buffered reports whether Read would return at once without asking the socket.
func (g *Gulp) Buffered() bool { return g.r < g.w }

func (g *Gulp) recv(p []byte) (int, error) {
	if err := g.use(); err != nil {
		return 0, err
	}
	defer g.release()
	if err := g.read.Check(); err != nil {
		return 0, err
	}
	switch {
	case !g.behind.Load():
		g.naps = naps{}
	case g.empty:
		g.naps.take()
	}
	for {
		n, _, err := unix.Recvfrom(g.fd, p, unix.MSG_DONTWAIT)
		switch err {
		case nil:
			g.empty = n < min(emptied, len(p))
			g.naps.got += max(n, 0)
			if n == 0 && g.isClosed() {
				return 0, net.ErrClosed
			}
			if n == 0 {
				return 0, io.EOF
			}
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			if err := g.wait(g.read); err != nil {
				return 0, err
			}
		default:
			return 0, &net.OpError{Op: "read", Net: "tcp", Addr: g.orig.RemoteAddr(), Err: os.NewSyscallError("recv", err)}
		}
	}
}

// Readable reports whether there is something to read.
func (g *Gulp) Readable() bool {
	if g.r < g.w {
		return true
	}
	if g.use() != nil {
		return true
	}
	defer g.release()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(g.fd), Events: unix.POLLIN}}, 0)
	return n > 0 || err != nil && err != unix.EINTR
}

// Write writes all of p.
func (g *Gulp) Write(p []byte) (n int, err error) {
	if err := g.use(); err != nil {
		return 0, err
	}
	defer g.release()
	if err := g.write.Check(); err != nil {
		return 0, err
	}
	for n < len(p) {
		k, err := unix.SendmsgN(g.fd, p[n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if k > 0 {
			n += k
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			if err := g.wait(g.write); err != nil {
				return n, err
			}
		default:
			if g.isClosed() {
				return n, net.ErrClosed
			}
			return n, &net.OpError{Op: "write", Net: "tcp", Addr: g.orig.RemoteAddr(), Err: os.NewSyscallError("send", err)}
		}
	}
	return n, nil
}

// wait waits until the socket is ready, the deadline has passed, or the connection is closed.
func (g *Gulp) wait(w *ready.Waiter) error {
	err := w.Wait()
	if err != nil && g.isClosed() {
		return net.ErrClosed
	}
	return err
}

// SetDeadline sets both deadlines; a call that waits notices at once.
func (g *Gulp) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read.
func (g *Gulp) SetReadDeadline(t time.Time) error { return g.setDeadline(g.read, t) }

// SetWriteDeadline sets the deadline of Write.
func (g *Gulp) SetWriteDeadline(t time.Time) error { return g.setDeadline(g.write, t) }

func (g *Gulp) setDeadline(w *ready.Waiter, t time.Time) error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.release()
	return w.SetDeadline(t)
}

// Close closes the connection; calls that wait return net.ErrClosed.
func (g *Gulp) Close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return net.ErrClosed
	}
	g.closed = true
	g.users++
	g.mu.Unlock()
	_ = unix.Shutdown(g.fd, unix.SHUT_RDWR)
	_ = g.read.SetDeadline(time.Unix(1, 0))
	_ = g.write.SetDeadline(time.Unix(1, 0))
	g.release()
	return nil
}

// LocalAddr returns the local address.
func (g *Gulp) LocalAddr() net.Addr { return g.orig.LocalAddr() }

// RemoteAddr returns the server's address.
func (g *Gulp) RemoteAddr() net.Addr { return g.orig.RemoteAddr() }
