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

// A Gulp is a connection that reads in a few large gulps.
//
// A server sends and flushes a message for every row, and sending a message costs the server more
// than making it. While SetBehind is in force, Read therefore naps after it has emptied the socket:
// it sleeps for a few milliseconds. Meanwhile the server fills the socket's window and then its own
// send buffer, where the kernel packs rows together at no cost. Read then takes all of them at
// once.
//
// When SetBehind is not in force, Read returns data as soon as it arrives. A Unix socket packs
// nothing, so Read never naps there.
//
// Go's network poller would defeat this: everything that arrives on a registered socket wakes the
// poller, even if no goroutine reads. A Gulp therefore removes the socket from the poller, and
// waits on the socket only while it has nothing else to do.
type Gulp struct {
	orig net.Conn // for addresses
	fd   int

	behind atomic.Bool
	once   sync.Once
	mayNap bool // naps pay on this kind of socket
	empty  bool // the last read emptied the socket
	naps   naps

	buf  []byte // for small reads
	r, w int

	read, write *ready.Waiter

	mu     sync.Mutex // guards the fields below
	users  int
	closed bool
}

const (
	gulpSize = 1 << 20
	// emptied is the number of bytes below which a read counts as having emptied the socket. It is
	// less than the window.
	emptied = 32 << 10
	// smallWindow limits the amount that the server can send row by row. It also bounds the
	// throughput: 250 MB a second at a round trip of 0.5 ms. So it is only for round trips shorter
	// than shortWay.
	smallWindow = 64 << 10
	shortWay    = 500 * time.Microsecond
	// breath is about the time in which a server sends the rows of a small transaction.
	breath = 100 * time.Microsecond
)

// naps chooses the length of naps. A nap should be long enough to gather many rows, and end before
// the server's send buffer is full. The size of that buffer is unknown, but the rate at which bytes
// arrive shows whether it was full.
type naps struct {
	length time.Duration
	count  int       // naps of this length
	got    int       // bytes received in these naps
	began  time.Time // start of the first of these naps

	best float64       // highest recent rate, in bytes a second
	with time.Duration // the length at which best was measured
}

const (
	// Measured with 200,000 small transactions from a server on the same machine, or over an
	// Ethernet: 7 to 9 s without naps or with naps of 1 ms, which end before the window is full;
	// 3.5 to 7 s with 5 or 10 ms; 3.3 s with 20 ms or more.
	shortestNap, longestNap = 5 * time.Millisecond, 40 * time.Millisecond
	// The number of bytes that a nap should gather. Linux lets a send buffer grow to 4 MB by
	// default.
	napSize = 2 << 20
	// A single nap tells little: a part of its bytes often arrives with the next nap.
	napsToJudge = 5
)

// take sleeps for one nap.
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

// judge chooses the length of the next naps from the bytes that the last naps gathered in the
// elapsed time.
func (n *naps) judge(elapsed time.Duration) {
	rate := float64(n.got) / elapsed.Seconds()
	if n.best *= 0.99; rate >= n.best {
		n.best, n.with = rate, n.length
	}
	switch got := n.got / n.count; {
	case rate < 0.8*n.best && n.length != n.with:
		// Naps were too short, or so long that the server had to wait.
		n.length = n.with
	case rate < 0.8*n.best: // the length is not the cause
		n.best = rate
	case got < napSize:
		n.length = n.length * 5 / 4
	case got > 2*napSize:
		n.length = n.length * 2 / 3
	}
	n.length = min(max(n.length, shortestNap), longestNap)
}

// shrink makes the window small if the round trip to the server is short.
func (g *Gulp) shrink() {
	if info, err := unix.GetsockoptTCPInfo(g.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil &&
		time.Duration(info.Rtt)*time.Microsecond < shortWay {
		_ = unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, smallWindow)
	}
}

// deadAfter is how long data sent to a peer may stay unacknowledged. The default of Linux is a
// quarter of an hour.
const deadAfter = time.Minute

// expectAnswers makes the kernel close the connection when the peer has acknowledged nothing for
// deadAfter: the peer's machine, or the network to it, is gone. Use it only for sessions that send
// little. The kernel would also close a session that has filled the peer's window.
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
	// Closing c removes the socket from the poller. The duplicated descriptor keeps the connection
	// open.
	return g, c.Close()
}

// Breathe sleeps for a moment, unless a backlog is to be read. Call it within a transaction that
// the server sends row by row. The server sends a small transaction in less time than that, and a
// reader that waits for each row would wake up once a row.
func (g *Gulp) Breathe() {
	if !g.behind.Load() {
		// Go's own timers would sleep for a whole millisecond.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: breath.Nanoseconds()}, nil)
	}
}

// SetBehind says whether a backlog is to be read, so that throughput matters more than latency.
func (g *Gulp) SetBehind(v bool) {
	if v = v && g.mayNap; v && !g.behind.Load() {
		g.once.Do(g.shrink)
	}
	g.behind.Store(v)
}

// use prevents close from closing the descriptor during a system call.
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

// Buffered reports whether Read can return data without a system call.
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

// Readable reports whether the socket has data to read.
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

// SetDeadline sets both deadlines. Calls that are waiting observe the new deadline at once.
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

// Close closes the connection. Calls that are waiting return net.ErrClosed.
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
