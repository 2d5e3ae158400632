package carried

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
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
		if t.Unlogged {
			b.WriteByte('u')
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
	var oids []uint32
	for line := range strings.Lines(unchanged) {
		id, counters, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, unlogged := strings.CutSuffix(id, "u")
		oid, err := strconv.ParseUint(number, 10, 32)
		x := ParseCounters(counters)
		if err != nil || x == nil {
			return false, nil
		}
		oids = append(oids, uint32(oid))
		before[uint32(oid)], tables[uint32(oid)] = x, &Table{Unlogged: unlogged}
	}
	now, err := Count(ctx, c, oids)
	if err != nil {
		return false, err
	}
	for oid, x := range before {
		if changed, told := tables[oid].differ(*x, now[oid]); changed || !told {
			return false, nil
		}
	}
	return true, nil
}
