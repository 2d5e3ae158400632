package receive

import (
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/format"
)

// begin writes a header for the changes after start.
func (r *Receiver) begin(w *format.Writer, start format.LSN) error {
	h := r.identity.Header(format.Changes)
	h.Producer = "pgdecode " + cli.Version()
	h.Created = format.TimeOf(time.Now())
	if !r.clock.IsZero() {
		h.Created, h.SourceLSN = format.TimeOf(r.clock), r.identity.At
		r.clock = time.Time{}
	}
	h.Slot, h.Publications, h.StartLSN = r.Slot, r.Publications, start
	h.Token, h.Minor = r.token, format.Minor // ddl records use the fields of this minor version
	if r.Keeper != nil {
		if err := r.Keeper.Begin(h); err != nil {
			return err
		}
	}
	if err := write(w, h); err != nil {
		return err
	}
	r.header, r.position, r.Timeline = h, start, r.identity.Timeline
	return nil
}

// end writes the end record.
func (r *Receiver) end(w *format.Writer, reason string) error {
	if r.header != nil {
		if w.InTransaction() {
			// The session broke within a transaction. A header discards that transaction; the
			// stream after it starts at the position reached.
			h := *r.header
			h.StartLSN, h.SourceLSN = r.position, 0
			if err := write(w, &h); err != nil {
				return err
			}
		}
		if _, err := w.End(reason, r.position); err != nil {
			return writeError(err)
		}
	}
	if reason == format.Stopped {
		return cli.ErrStopped
	}
	return nil
}
