package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/receive"
	"github.com/pgsluice/pgsluice/format"
)

// A confirmation follows the lines that pgapply prints in a file that grows or in a FIFO:
// "applied<TAB>LSN<TAB>time<TAB>ID" of what the target has made durable, and "ended<TAB>ID", after
// which nothing is applied any more. ID is the migration's token and the target's identifier, with
// a dot between.
type confirmation struct {
	take func(receive.Line)
}

// poll is how often a file is looked at for new lines. A FIFO wakes us by itself.
const poll = 100 * time.Millisecond

// follow reads path until ctx ends.
func (c *confirmation) follow(ctx context.Context, path string) error {
	st, err := os.Stat(path)
	if err == nil && st.Mode()&fs.ModeNamedPipe != 0 {
		// Opened for both directions, so that neither opening nor reading depends on whether the
		// writer is there.
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return confirmError(path, err)
		}
		context.AfterFunc(ctx, func() { _ = f.Close() })
		go c.read(f)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return confirmError(path, err)
	}
	// The file may be made by a redirection that the shell has not come to yet.
	if f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o666); err != nil {
		return confirmError(path, err)
	} else {
		_ = f.Close()
	}
	c.readFile(path, 0)
	go func() {
		var at int64
		for ctx.Err() == nil {
			at = c.readFile(path, at)
			time.Sleep(poll)
		}
	}()
	return nil
}

func confirmError(path string, err error) error {
	return fault.New(fault.Usage, "could not read confirmations from %q: %w", path, err).
		WithHint("--confirm-from takes the file or FIFO that pgapply's standard output goes to.")
}

// readFile reads what has been added since at, and returns the new end. A file that became shorter
// was written anew.
func (c *confirmation) readFile(path string, at int64) int64 {
	f, err := os.Open(path)
	if err != nil {
		return at
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() == at {
		return at
	} else if st.Size() < at {
		at = 0
	}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return at
	}
	return at + c.read(f)
}

// read takes whole lines from r until it ends, and returns how many bytes those were.
func (c *confirmation) read(r io.Reader) (n int64) {
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = buf[:0] // a line of this length is none of ours
		}
		k, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+k]
		for {
			i := bytes.IndexByte(buf, '\n')
			if i < 0 {
				break
			}
			c.line(buf[:i])
			n += int64(i) + 1
			buf = buf[:copy(buf, buf[i+1:])]
		}
		if err != nil {
			return n
		}
	}
}

func (c *confirmation) line(b []byte) {
	f := strings.Split(string(b), "\t")
	var l receive.Line
	switch {
	case f[0] == "ended" && len(f) == 2:
		l.Ended = true
	case f[0] == "applied" && len(f) == 4:
		lsn, err := format.ParseLSN(f[1])
		if err != nil {
			return
		}
		l.LSN = lsn
	default:
		return
	}
	l.Token, l.Target, _ = strings.Cut(f[len(f)-1], ".")
	c.take(l)
}
