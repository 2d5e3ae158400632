package carried

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A server before 11 does not decode TRUNCATE. It leaves one trace: the table has another file.
// VACUUM FULL, CLUSTER and statements that rewrite the table leave the same trace.

// decodesTruncate reports whether a server decodes TRUNCATE.
func decodesTruncate(version int) bool { return version >= 110000 }

// Files returns the OIDs of the tables of which only the file is needed: all changes but TRUNCATE
// are carried.
func (s *State) Files(tables []*Table) (oids []uint32) {
	if decodesTruncate(s.Version) {
		return nil
	}
	for _, t := range tables {
		if t.Kind == "r" && !t.Has(NoIdentity, Unlogged) {
			oids = append(oids, t.OID)
		}
	}
	return oids
}

// CountFiles is Count for tables of which only the file is needed. Any role may read it.
func CountFiles(ctx context.Context, c *pgx.Conn, oids []uint32) (map[uint32]Counters, error) {
	m := make(map[uint32]Counters, len(oids))
	if len(oids) == 0 {
		return m, nil
	}
	rows, err := c.Query(ctx, "SELECT c.oid, c.relfilenode FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::pg_catalog.oid[])", oids)
	if err != nil {
		return nil, err
	}
	var oid, file uint32
	_, err = pgx.ForEachRow(rows, []any{&oid, &file}, func() error {
		m[oid] = Counters{File: file}
		return nil
	})
	return m, err
}

// files judges the tables of which only the file is needed.
func (s *State) files(ctx context.Context, c *pgx.Conn, judged []*Table) error {
	now, err := CountFiles(ctx, c, s.Files(judged))
	for oid, x := range now {
		t := s.Table(oid)
		var before *Counters
		switch l := t.loaded; {
		case l == nil:
		case l.Recorded: // the server names a new table's file after the table
			before = &Counters{File: oid}
		default:
			before = ParseCounters(l.Counted)
		}
		switch {
		case before == nil || before.File == 0: // unknown
		case before.File != x.File:
			s.truncated(t)
		default:
			t.Unchanged = &x
		}
	}
	return err
}

func (s *State) truncated(t *Table) {
	t.because(Truncated, "its file was replaced since it was loaded, and PostgreSQL 10 does not decode TRUNCATE; VACUUM FULL, CLUSTER and some ALTER TABLE replace the file, too")
}
