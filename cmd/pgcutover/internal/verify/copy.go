package verify

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// To plan a query of a table, the server inlines the functions of the table's indexes. A function
// that relies on its caller's search path fails there. Setting a search path for it would execute
// other people's code with our privileges. COPY of a table plans nothing and calls only the output
// functions of the column types. So COPY reads such a table as a whole, and this package hashes its
// rows.

// unplanned returns the pairs that could not be compared because of a planning error, and for which
// COPY prints the same text on both sides: tables with rows of their own, without columns whose
// text is made by an expression.
func unplanned(pairs []*pair) (list []*pair) {
	for _, p := range pairs {
		plain := p.unverified != "" && ofFunction(p.cause) && !p.whole && len(p.leaves) == 0 && len(p.names) > 0
		for i, name := range p.names {
			plain = plain && p.columns[i] == pgx.Identifier{name}.Sanitize()
		}
		if plain {
			list = append(list, p)
		}
	}
	return list
}

// ofFunction reports whether an error may come from a function that the planner inlines, or from
// anything else that only planning meets. A missing privilege does not count.
func ofFunction(err error) bool {
	var pg *pgconn.PgError
	return isOfTable(err) && errors.As(err, &pg) && pg.Code != "42501"
}

// sumByCopy sums tables that a query cannot read. A table that COPY cannot read either stays
// unverified.
func (v *verification) sumByCopy(ctx context.Context, pairs []*pair) error {
	for _, p := range pairs {
		var sums [2]sum
		readable := true
		for side, server := range []pgdial.Server{v.Source, v.Target} {
			c, err := openSnapshot(ctx, server, v.snapshot(server), v.settings(server))
			if err != nil {
				return err
			}
			schema, name := p.schema, p.name
			if side == 1 {
				schema, name = p.targetSchema, p.targetName
			}
			columns := make([]string, len(p.names))
			for i, n := range p.names {
				columns[i] = pgx.Identifier{n}.Sanitize()
			}
			h := &rowHashes{}
			_, err = c.PgConn().CopyTo(ctx, h, "COPY "+pgx.Identifier{schema, name}.Sanitize()+" ("+
				strings.Join(columns, ", ")+") TO STDOUT")
			_ = c.Close(context.WithoutCancel(ctx))
			if isTooLarge(err) || isOfTable(err) {
				readable = false
				break
			}
			if err != nil {
				return server.Explain(fmt.Errorf("could not compare table %s.%s: %w", p.schema, p.name, err))
			}
			sums[side].rows = h.rows
			sums[side].a.SetUint64(h.a)
			sums[side].b.SetUint64(h.b)
		}
		if readable {
			p.source, p.target = sums[0], sums[1]
			p.unverified, p.byCopy = "", true
		}
	}
	return nil
}

// rowHashes adds up the hashes of rows. The server sends each row in its own message, which arrives
// in one call of Write.
type rowHashes struct {
	rows int64
	a, b uint64
}

func (h *rowHashes) Write(row []byte) (int, error) {
	s := sha256.Sum256(row)
	h.rows++
	h.a += binary.BigEndian.Uint64(s[:8])
	h.b += binary.BigEndian.Uint64(s[8:16])
	return len(row), nil
}
