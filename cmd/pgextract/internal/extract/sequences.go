package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// sequences writes the state that sequences have now, under the names that they had in the
// snapshot.
func (l *Load) sequences(ctx context.Context, c *pgx.Conn, list []catalog.Sequence, w *format.Writer) error {
	now, err := catalog.Sequences(ctx, c)
	if err != nil {
		return l.Server.Explain(err)
	}
	byOID := make(map[uint32]*catalog.Sequence, len(now))
	for i := range now {
		byOID[now[i].OID] = &now[i]
	}
	for i := range list {
		s, known := byOID[list[i].OID]
		if !known || !l.chosen.sequence(&list[i]) {
			continue // it was dropped, or is not wanted
		}
		s.Schema, s.Name = list[i].Schema, list[i].Name
		if !s.Known {
			return fault.New(fault.Permission, "could not read the state of sequence %s.%s on the source", s.Schema, s.Name).
				WithHint("GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO …", text.Ident(s.Schema))
		}
		if err := writeError(w.Write(&s.Sequence)); err != nil {
			return err
		}
	}
	return nil
}
