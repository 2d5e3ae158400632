// Package ready waits for files that Go's network poller does not know: sockets that are kept from
// it, and standard input.
package ready

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The events that can be waited for.
const (
	In  = unix.EPOLLIN // which is poll(2)'s number, too
	Out = unix.EPOLLOUT
)

// A Waiter waits until a file can be read, or written. While nobody waits, nobody is woken. While
// somebody does, no thread is: one that blocks in a system call costs Go's scheduler up to half of
// all that a small message costs us.
//
// It is an epoll instance, of which the file is the only member, and which Go's poller knows.
type Waiter struct {
	fd     int
	events uint32
	poll   int16 // the same for poll(2)
	epoll  *os.File
	conn   syscall.RawConn
}

// New returns a Waiter for a descriptor, which stays the caller's. What is always ready, as a
// regular file is, cannot be waited for: that is an error.
func New(fd int, events uint32) (*Waiter, error) {
	e, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(e, true) // which is how os.NewFile knows that it can be polled
	w := &Waiter{fd: fd, events: events | unix.EPOLLONESHOT, poll: int16(events), epoll: os.NewFile(uintptr(e), "epoll")}
	err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(e, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT}))
	if err == nil {
		err = w.SetDeadline(time.Time{}) // fails if the poller has not taken it
	}
	if err == nil {
		w.conn, err = w.epoll.SyscallConn()
	}
	if err != nil {
		_ = w.epoll.Close()
		return nil, err
	}
	return w, nil
}

// Wait returns when the descriptor is ready; now and then it does so too early. At the deadline it
// returns os.ErrDeadlineExceeded. One goroutine may wait at a time.
func (w *Waiter) Wait() error {
	armed := false
	var failed error
	err := w.conn.Read(func(e uintptr) bool {
		if armed {
			// Fetched, it is not reported again until the next Wait. Nothing else depends on this:
			// while the poller looks at the instance, it may seem empty.
			var got [1]unix.EpollEvent
			_, _ = unix.EpollWait(int(e), got[:], 0)
			return true
		}
		// Here and not before: what happens from now on wakes us. What the instance knew already
		// does not, so the file itself is asked.
		armed = true
		if failed = unix.EpollCtl(int(e), unix.EPOLL_CTL_MOD, w.fd, &unix.EpollEvent{Events: w.events}); failed != nil {
			return true
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: w.poll}}, 0)
		return n > 0 || err != nil
	})
	if err == nil {
		err = os.NewSyscallError("epoll_ctl", failed)
	}
	return err
}

// Check returns os.ErrDeadlineExceeded if the deadline has passed.
func (w *Waiter) Check() error { return w.conn.Read(func(uintptr) bool { return true }) }

// SetDeadline sets until when Wait waits, also for one that is waiting. The zero time means for
// ever.
func (w *Waiter) SetDeadline(t time.Time) error { return w.epoll.SetReadDeadline(t) }

// Close gives up what the Waiter uses. Nobody may be waiting.
func (w *Waiter) Close() error { return w.epoll.Close() }
