package apply

import (
	"io"
	"os"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/ready"
)

// An input reads ahead from standard input in its own goroutine, so that the decoder can do other
// work while there is nothing to read.
type input struct {
	blocks chan []byte // what has been read
	free   chan []byte
	err    error // why blocks was closed
	block  []byte
	rest   []byte
	giveUp <-chan struct{}
	// next waits for a block. It may do other work while it waits.
	next func() (block []byte, ok bool, err error)
}

const (
	// blockSize is the size of a pipe's buffer, so that one read empties it.
	blockSize = 1 << 20
	blocks    = 3
)

// newInput starts to read ahead. Once giveUp is closed and no input is left, Read returns
// errGiveUp.
func newInput(r io.Reader, giveUp <-chan struct{}) *input {
	in := &input{giveUp: giveUp, blocks: make(chan []byte, blocks), free: make(chan []byte, blocks)}
	in.next = in.plain
	for range blocks {
		in.free <- nil
	}
	wait := func() error { return nil }
	if f, ok := r.(*os.File); ok {
		if w, err := ready.New(int(f.Fd()), ready.In); err == nil {
			wait = w.Wait
		}
	}
	go func() {
		defer close(in.blocks)
		for b := range in.free {
			if b == nil {
				b = make([]byte, blockSize)
			}
			_ = wait() // if it fails, Read waits instead
			n, err := r.Read(b[:cap(b)])
			if n > 0 {
				in.blocks <- b[:n]
			} else if err == nil {
				in.free <- b
			}
			if err == io.EOF {
				in.err = err
				return
			}
			if err != nil {
				in.err = fault.New(fault.Failed, "could not read the input: %w", err).
					WithHint("Start the same commands again: they continue where they stopped.")
				return
			}
		}
	}()
	return in
}

func (in *input) plain() ([]byte, bool, error) {
	select {
	case b, ok := <-in.blocks:
		return b, ok, nil
	default:
	}
	select {
	case b, ok := <-in.blocks:
		return b, ok, nil
	case <-in.giveUp:
		return nil, false, errGiveUp
	}
}

// Read returns the input that is available, or waits for more.
func (in *input) Read(p []byte) (int, error) {
	if len(in.rest) == 0 {
		if in.block != nil {
			in.free <- in.block
			in.block = nil
		}
		b, ok, err := in.next()
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, in.err
		}
		in.block, in.rest = b, b
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}
