package pgwire

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"os"
	"time"
)

// CopyHead is the number of bytes at the front of a chunk that WriteCopy needs for the message
// header.
const CopyHead = 5

// glance is the time for which WriteCopy waits for the rest of a message.
const glance = 100 * time.Millisecond

// readable reports whether the server has sent something.
func (c *Conn) readable() bool {
	nc := c.nc
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	r, ok := nc.(interface{ Readable() bool })
	return ok && r.Readable()
}

// StartCopyIn starts a COPY FROM STDIN. WriteCopy and EndCopy follow, with the same ctx.
func (c *Conn) StartCopyIn(ctx context.Context, sql string) error {
	return c.startCopy(ctx, sql, 'G', "the server did not start the COPY")
}

// WriteCopy sends a chunk: CopyHead bytes, which it overwrites, and the data. If the server has
// rejected earlier data, WriteCopy returns the server's error, and the COPY is over.
func (c *Conn) WriteCopy(ctx context.Context, chunk []byte) error {
	stop := c.watch(ctx)
	defer stop()
	if err := c.refused(ctx); err != nil {
		return err
	}
	chunk[0] = 'd'
	binary.BigEndian.PutUint32(chunk[1:], uint32(len(chunk)-1))
	if _, err := c.nc.Write(chunk); err != nil {
		return c.lost(ctx, err)
	}
	return nil
}

// copyPiece is the size of the messages that WriteCopyPieces sends.
const copyPiece = 1 << 20

// WriteCopyPieces is WriteCopy for data without room in front that is too large to copy.
func (c *Conn) WriteCopyPieces(ctx context.Context, data []byte) error {
	stop := c.watch(ctx)
	defer stop()
	for len(data) > 0 {
		if err := c.refused(ctx); err != nil {
			return err
		}
		piece := data[:min(len(data), copyPiece)]
		data = data[len(piece):]
		head := binary.BigEndian.AppendUint32([]byte{'d'}, uint32(len(piece)+4))
		for _, b := range [][]byte{head, piece} {
			if _, err := c.nc.Write(b); err != nil {
				return c.lost(ctx, err)
			}
		}
	}
	return nil
}

// refused returns the server's error if the server has rejected earlier data. The COPY is then
// over. Except for a notice, the server sends nothing while it accepts the data.
func (c *Conn) refused(ctx context.Context) error {
	for !c.Waiting() || c.readable() {
		// The input may be a part of a message, or a TLS record without a message.
		if err := c.nc.SetReadDeadline(time.Now().Add(glance)); err != nil {
			return c.lost(ctx, err)
		}
		t, body, err := c.message()
		if e := c.nc.SetReadDeadline(time.Time{}); e != nil {
			return c.lost(ctx, e)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return c.lost(ctx, err)
		}
		if t == 'E' {
			err = c.serverError(body)
			if _, e := c.endCopy(ctx); e != nil {
				return e
			}
			return err
		}
	}
	return nil
}

// EndCopy ends the data, or aborts the COPY if fail gives a reason. It returns the number of rows.
func (c *Conn) EndCopy(ctx context.Context, fail string) (int64, error) {
	stop := c.watch(ctx)
	defer stop()
	msg := []byte{'c', 0, 0, 0, 4}
	if fail != "" {
		msg = binary.BigEndian.AppendUint32([]byte{'f'}, uint32(len(fail)+5))
		msg = append(append(msg, fail...), 0)
	}
	if _, err := c.nc.Write(msg); err != nil {
		return 0, c.lost(ctx, err)
	}
	return c.endCopy(ctx)
}

func (c *Conn) endCopy(ctx context.Context) (rows int64, err error) {
	for {
		t, body, e := c.message()
		if e != nil {
			return 0, c.lost(ctx, e)
		}
		switch t {
		case 'C':
			rows = tagCount(body)
		case 'E':
			err = c.serverError(body)
		case 'Z':
			return rows, err
		}
	}
}
