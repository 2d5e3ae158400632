package carried

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// Unchanged returns the tables that Changes has found unchanged, with their counters, as text for
// Recount.
func Unchanged(tables []*Table) string {
	var b strings.Builder
	for _, t := range tables {
		if t.Unchanged == nil {
			continue
		}
		b.WriteString(strconv.FormatUint(uint64(t.OID), 10))
		switch {
		case t.Unlogged:
			b.WriteByte('u')
		case t.Unchanged.Since == "":
			b.WriteByte('f')
		}
		b.WriteString(" " + t.Unchanged.String() + "\n")
	}
	return b.String()
}

// Recount reports whether the tables of an earlier Unchanged are still unchanged. It is much faster
// than to judge all tables.
func Recount(ctx context.Context, c *pgx.Conn, unchanged string) (bool, error) {
	before := make(map[uint32]*Counters)
	tables := make(map[uint32]*Table)
	files := make(map[uint32]uint32)
	var oids []uint32
	for line := range strings.Lines(unchanged) {
		id, counters, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, unlogged := strings.CutSuffix(id, "u")
		number, onlyFile := strings.CutSuffix(number, "f")
		oid, err := strconv.ParseUint(number, 10, 32)
		x := ParseCounters(counters)
		if err != nil || x == nil {
			return false, nil
		}
		if onlyFile {
			files[uint32(oid)] = x.File
			continue
		}
		oids = append(oids, uint32(oid))
		before[uint32(oid)], tables[uint32(oid)] = x, &Table{Unlogged: unlogged}
	}
	current, err := CountFiles(ctx, c, slices.Collect(maps.Keys(files)))
	if err != nil {
		return false, err
	}
	for oid, file := range files {
		if current[oid].File != file {
			return false, nil
		}
	}
	now, err := Count(ctx, c, oids)
	if err != nil {
		return false, err
	}
	version := pgdial.Version(c.PgConn())
	for oid, x := range before {
		if changed, told := tables[oid].differ(*x, now[oid], version); changed || !told {
			return false, nil
		}
	}
	return true, nil
}
