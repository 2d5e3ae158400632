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
)

// A Gulp is a connection that can read in few large gulps.
//
// A server sends a message for every row and flushes each one; sending it by itself costs the server more than making it. While SetBehind
// is in force, Read therefore leaves the socket alone for a while whenever it has emptied it: it takes a nap. The server fills the
// socket's window and goes on into its own send buffer, where rows are packed together for nothing, and Read then takes all that at once.
// While it is not in force, and over a Unix socket, which packs nothing, Read returns whatever there is as soon as it is there.
//
// Go's network poller would spoil this: it is woken by everything that arrives on a socket that it knows, whether or not anybody reads.
// So the socket is taken away from it, and Read and Write use poll(2), which listens only while there is nothing else to do.
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

	read, write waiter

	mu     sync.Mutex // guards the rest
	users  int
	closed bool
}

// A waiter is one direction's deadline, and an eventfd that interrupts its poll when the deadline changes.
type waiter struct {
	by   atomic.Int64 // nanoseconds since 1970, 0: none
	wake int
}

const (
	gulpSize = 1 << 20
	// emptied is how little a read must return for the socket to count as empty: less than the window.
	emptied = 32 << 10
	// smallWindow keeps what can be sent row by row small. Over a long way it would bound the throughput, so it is for short ones only:
	// at half a millisecond it allows 250 MB a second.
	smallWindow = 64 << 10
	shortWay    = 500 * time.Microsecond
)

// Naps are to be so long that much arrives at once, and not so long that the server's send buffer is full before they end, whose size
// nobody tells us: the rate at which bytes arrive does.
type naps struct {
	length time.Duration
	count  int       // with this length
	got    int       // bytes, since the first of them
	began  time.Time // when the first of them did

	best float64       // bytes a second, the most of late
	with time.Duration // the length that has brought them
}

const (
	// Measured with 200,000 small transactions from a server on the same machine, or over an Ethernet: 7 to 9 s without naps or with naps
	// of 1 ms, which end before the window is full, 3.5 to 7 s with 5 or 10 ms, 3.3 s with 20 ms and more.
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
	case rate < 0.8*n.best && n.length != n.with: // too long, so that the server had to wait, or too short
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
	if info, err := unix.GetsockoptTCPInfo(g.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && time.Duration(info.Rtt)*time.Microsecond < shortWay {
		_ = unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, smallWindow)
	}
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
	for _, w := range []*waiter{&g.read, &g.write} {
		if w.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
			g.closeFiles()
			return nil, os.NewSyscallError("eventfd", err)
		}
	}
	// This takes the socket out of the poller; our own descriptor keeps the connection open.
	return g, c.Close()
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
	for _, fd := range []int{g.fd, g.read.wake, g.write.wake} {
		if fd > 0 {
			_ = unix.Close(fd)
		}
	}
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
	if g.read.expired() {
		return 0, os.ErrDeadlineExceeded
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
			if err := g.wait(unix.POLLIN, &g.read); err != nil {
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
	if g.write.expired() {
		return 0, os.ErrDeadlineExceeded
	}
	for n < len(p) {
		k, err := unix.SendmsgN(g.fd, p[n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if k > 0 {
			n += k
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			if err := g.wait(unix.POLLOUT, &g.write); err != nil {
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
func (g *Gulp) wait(event int16, w *waiter) error {
	for {
		if g.isClosed() {
			return net.ErrClosed
		}
		ms := -1
		if t := w.by.Load(); t != 0 {
			left := time.Until(time.Unix(0, t))
			if left <= 0 {
				return os.ErrDeadlineExceeded
			}
			ms = int(min(left, time.Hour)/time.Millisecond) + 1
		}
		fds := []unix.PollFd{{Fd: int32(g.fd), Events: event}, {Fd: int32(w.wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, ms); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if fds[1].Revents != 0 {
			var b [8]byte
			_, _ = unix.Read(w.wake, b[:])
			continue
		}
		if fds[0].Revents != 0 {
			return nil
		}
	}
}

func (w *waiter) expired() bool {
	t := w.by.Load()
	return t != 0 && time.Now().UnixNano() >= t
}

func (w *waiter) set(t time.Time) {
	var ns int64
	if !t.IsZero() {
		ns = max(t.UnixNano(), 1)
	}
	w.by.Store(ns)
	w.interrupt()
}

func (w *waiter) interrupt() {
	_, _ = unix.Write(w.wake, []byte{0, 0, 0, 0, 0, 0, 0, 1})
}

// SetDeadline sets both deadlines; a call that waits notices at once.
func (g *Gulp) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read.
func (g *Gulp) SetReadDeadline(t time.Time) error { return g.setDeadline(&g.read, t) }

// SetWriteDeadline sets the deadline of Write.
func (g *Gulp) SetWriteDeadline(t time.Time) error { return g.setDeadline(&g.write, t) }

func (g *Gulp) setDeadline(w *waiter, t time.Time) error {
	if err := g.use(); err != nil {
		return err
	}
	defer g.release()
	w.set(t)
	return nil
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
	g.read.interrupt()
	g.write.interrupt()
	g.release()
	return nil
}

// LocalAddr returns the local address.
func (g *Gulp) LocalAddr() net.Addr { return g.orig.LocalAddr() }

// RemoteAddr returns the server's address.
func (g *Gulp) RemoteAddr() net.Addr { return g.orig.RemoteAddr() }
