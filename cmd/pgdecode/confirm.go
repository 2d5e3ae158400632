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

// A confirmation follows pgapply's output in a growing file or a FIFO. A line
// "applied<TAB>LSN<TAB>time<TAB>ID" says that the target has made changes durable up to LSN. After
// "ended<TAB>ID" the target applies no more changes. ID is the migration's token and the target's
// identifier, separated by a dot.
type confirmation struct {
	take func(receive.Line)
}

// poll is the interval at which a file is checked for new lines. Reading a FIFO blocks instead.
const poll = 100 * time.Millisecond

// follow reads path until ctx ends.
func (c *confirmation) follow(ctx context.Context, path string) error {
	st, err := os.Stat(path)
	if err == nil && st.Mode()&fs.ModeNamedPipe != 0 {
		// Opened for reading and writing, so that neither open nor read depends on a writer.
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
	// The shell may not have performed the redirection that creates the file yet.
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

// readFile reads the lines after offset at, and returns the new offset. A file that became shorter
// was rewritten: it is read from the beginning.
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

// read takes complete lines from r until it ends, and returns their length in bytes.
func (c *confirmation) read(r io.Reader) (n int64) {
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = buf[:0] // pgapply prints no line of this length
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
