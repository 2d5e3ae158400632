package ready

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWait(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	in, err := New(int(r.Fd()), In) // Fd makes it a blocking one, as standard input is
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := New(int(w.Fd()), Out)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	wait := func(what string, x *Waiter, want error) {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			err := x.Wait()
			for want != nil && err == nil { // too early
				err = x.Wait()
			}
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, want) {
				t.Fatalf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: still waiting", what)
		}
	}
	write := func() {
		if _, err := w.Write([]byte("x")); err != nil {
			t.Error(err)
		}
	}
	buf := make([]byte, 1)
	wait("room to write", out, nil)
	write()
	for range 3 {
		wait("what is there", in, nil)
	}
	// Whether it comes before we wait or while we do, again and again.
	for i := range 200 {
		if _, err := r.Read(buf); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			time.AfterFunc(time.Duration(i)*10*time.Microsecond, write)
		} else {
			write()
		}
		wait("what comes", in, nil)
	}
	if _, err := r.Read(buf); err != nil {
		t.Fatal(err)
	}
	if err := in.Check(); err != nil {
		t.Error(err)
	}
	_ = in.SetDeadline(time.Now().Add(10 * time.Millisecond))
	wait("with a deadline", in, os.ErrDeadlineExceeded)
	if err := in.Check(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = in.SetDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { _ = in.SetDeadline(time.Unix(1, 0)) })
	wait("interrupted", in, os.ErrDeadlineExceeded)
	// What came while nobody waited, and what Wait was armed for when it was interrupted, is no
	// reason to miss what comes later.
	write()
	_ = in.SetDeadline(time.Time{})
	wait("what is there after all", in, nil)
	if _, err := r.Read(buf); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { _ = w.Close() })
	wait("the end", in, nil)

	// What was so before there was a Waiter, which the poller may be looking at just now.
	for i := range 2000 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			_ = w.Close()
		}
		in, err := New(int(r.Fd()), In)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			wait("what was there", in, nil)
		}
		_ = in.Close()
		_ = r.Close()
		_ = w.Close()
	}

	// Many at once, so that the poller is busy with others when one becomes ready.
	var all sync.WaitGroup
	for range 50 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		in, err := New(int(r.Fd()), In)
		if err != nil {
			t.Fatal(err)
		}
		_ = in.SetDeadline(time.Now().Add(time.Minute))
		all.Go(func() {
			defer w.Close()
			for range 300 {
				_, _ = w.Write([]byte("x"))
				runtime.Gosched()
			}
		})
		all.Go(func() {
			defer r.Close()
			defer in.Close()
			for buf := make([]byte, 1); ; {
				if err := in.Wait(); err != nil {
					t.Error(err)
					return
				}
				if n, err := r.Read(buf); err != nil || n == 0 {
					return
				}
			}
		})
	}
	all.Wait()

	if f, err := os.CreateTemp(t.TempDir(), ""); err != nil {
		t.Fatal(err)
	} else if _, err := New(int(f.Fd()), In); !errors.Is(err, unix.EPERM) {
		t.Errorf("a regular file: %v", err)
	}
}
