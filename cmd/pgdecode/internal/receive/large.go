package receive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/format"
)

// large handles a large message of which only the beginning has arrived. A row is assembled in
// memory once, and written from there. A logical message is passed on in pieces. Messages that are
// left out are skipped by the connection.
func (s *session) large(ctx context.Context, begin []byte) (done bool, err error) {
	if s.lines == nil && len(begin) > 25 && begin[0] == 'w' {
		s.blocks.sent(begin[25])
		if s.decoder.Unwanted(begin[25:], s.without == theTransaction) {
			return false, nil
		}
		if m, n, size := s.decoder.BeginMessage(begin[25:]); m != nil && 25+n+size == len(begin)+s.conn.Rest() {
			return s.passOn(ctx, m, begin[25+n:], size)
		}
	}
	for {
		msg, err := s.conn.Whole()
		if err == nil {
			return s.handle(msg)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, s.refused(err)
		}
		if done, err := s.idle(); done || err != nil {
			return done, err
		}
		if err := s.goOn(ctx); err != nil {
			return false, err
		}
	}
}

// goOn sets the next deadline for a message that takes long to arrive.
func (s *session) goOn(ctx context.Context) error {
	_ = s.conn.SetReadDeadline(time.Now().Add(tick))
	return ctx.Err()
}

// passOn writes a logical message from the beginning of its content, and the rest as it arrives.
func (s *session) passOn(ctx context.Context, m *format.Message, begin []byte, size int) (done bool, err error) {
	rest := &rest{session: s, ctx: ctx}
	err = s.w.WriteFrom(m, size, io.MultiReader(bytes.NewReader(begin), rest))
	switch {
	case err == nil:
		return false, nil
	case rest.err == nil:
		return false, writeError(err)
	case s.bound.ended.Load():
		return true, nil
	case errors.Is(err, cli.ErrStopped):
		return true, s.end(s.w, format.Stopped)
	case ctx.Err() != nil:
		return false, ctx.Err()
	}
	return false, s.refused(err)
}

// A rest reads the part of a message that has not arrived yet.
type rest struct {
	*session
	ctx context.Context
	err error
}

func (r *rest) Read(p []byte) (n int, err error) {
	for {
		n, err = r.conn.Read(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err = r.goOn(r.ctx); err != nil {
			break
		}
		if foreign := r.bound.foreign.Load(); foreign != nil {
			err = foreign
			break
		}
		if r.ending.overdue() || r.bound.ended.Load() {
			err = cli.ErrStopped
			break
		}
	}
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
