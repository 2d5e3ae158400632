package receive

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/lines"
	"github.com/pgsluice/pgsluice/format"
)

// openLines returns the decoder for a slot of test_decoding, or nil for one of pgoutput.
func (r *Receiver) openLines(ctx context.Context) (d *lines.Decoder, closes func(), err error) {
	if r.plugin != slot.TestDecoding {
		return nil, func() {}, nil
	}
	catalog := &lines.Source{Server: r.Server, Slot: r.Slot, Publications: r.Publications}
	if err := catalog.Open(ctx); err != nil {
		return nil, nil, err
	}
	charset, err := catalog.Charset()
	if err != nil {
		return nil, nil, err
	}
	return &lines.Decoder{Catalog: catalog, CheckText: r.identity.Encoding == "SQL_ASCII", Version: r.identity.Version, Charset: charset}, catalog.Close, nil
}

// line takes one line of test_decoding. While a transaction must arrive again, those before it were
// written as well.
func (s *session) line(msg []byte) (done bool, err error) {
	lsn := format.LSN(binary.BigEndian.Uint64(msg[1:]))
	err = s.lines.Decode(msg[25:], lsn, s.must.EndLSN != 0, func(rec format.Record) error {
		ended, err := s.record(rec, msg)
		if _, is := rec.(*format.StreamStart); is {
			s.blocks.sent('I') // unlike pgoutput, the plugin sends the same in every session
		}
		done = done || ended
		return err
	})
	if f := (*fault.Error)(nil); err == nil || errors.As(err, &f) {
		return done, err
	}
	return false, fault.New(fault.Failed, "could not decode a change near LSN %v: %w", lsn, err)
}
