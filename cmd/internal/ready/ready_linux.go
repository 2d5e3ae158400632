// Package ready waits for files that are not registered with Go's network poller: sockets removed
// from it, and standard input.
package ready

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The events that a Waiter can wait for.
const (
	In  = unix.EPOLLIN // has the same value in poll(2)
	Out = unix.EPOLLOUT
)

// A Waiter waits until a file is readable or writable. Events wake nobody while nobody waits. A
// waiting goroutine does not block a thread: a thread blocked in a system call costs Go's scheduler
// up to half of our total cost of a small message.
//
// A Waiter is an epoll instance whose only member is the file. Go's poller watches the instance.
type Waiter struct {
	fd     int
	events uint32
	poll   int16 // events for poll(2)
	epoll  *os.File
	conn   syscall.RawConn
}

// New returns a Waiter for a descriptor. The caller still owns the descriptor. New fails for a file
// that is always ready, such as a regular file.
func New(fd int, events uint32) (*Waiter, error) {
	e, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(e, true) // tells os.NewFile to register the descriptor with the poller
	w := &Waiter{fd: fd, events: events | unix.EPOLLONESHOT, poll: int16(events), epoll: os.NewFile(uintptr(e), "epoll")}
	err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(e, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT}))
	if err == nil {
		err = w.SetDeadline(time.Time{}) // fails if the poller did not accept the descriptor
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

// Wait returns when the descriptor is ready, and occasionally earlier. At the deadline it returns
// os.ErrDeadlineExceeded. Only one goroutine may wait at a time.
func (w *Waiter) Wait() error {
	armed := false
	var failed error
	err := w.conn.Read(func(e uintptr) bool {
		if armed {
			// Fetch the event, so that the instance does not report it again until the next Wait.
			// Nothing else depends on this call: while the poller looks at the instance, the
			// instance may seem empty.
			var got [1]unix.EpollEvent
			_, _ = unix.EpollWait(int(e), got[:], 0)
			return true
		}
		// Arm the instance here, inside Read: later events wake this goroutine. An event that the
		// instance already had does not wake it, so poll the file itself.
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

// SetDeadline sets the deadline of Wait, including a Wait in progress. The zero time means no
// deadline.
func (w *Waiter) SetDeadline(t time.Time) error { return w.epoll.SetReadDeadline(t) }

// Close releases the Waiter's resources. No goroutine may be waiting.
func (w *Waiter) Close() error { return w.epoll.Close() }
