package carried

import (
	"context"
	"fmt"
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
	changed, _, err := RecountTables(ctx, c, unchanged)
	return err == nil && len(changed) == 0, err
}

// RecountTables returns the OIDs of the tables of an earlier Unchanged that have changed, or of
// which nobody can tell any more, and the text with the counters of now. That leaves out tables
// that are gone: they can be accepted. It is never empty.
func RecountTables(ctx context.Context, c *pgx.Conn, unchanged string) (changed []uint32, again string, err error) {
	type line struct {
		oid    uint32
		mark   string // u: unlogged; f: only the file is compared
		before Counters
	}
	var lines []line
	var oids, files []uint32
	for text := range strings.Lines(unchanged) {
		if strings.TrimSpace(text) == "" {
			continue
		}
		id, counters, _ := strings.Cut(strings.TrimSpace(text), " ")
		number := strings.TrimRight(id, "uf")
		oid, err := strconv.ParseUint(number, 10, 32)
		x := ParseCounters(counters)
		if err != nil || x == nil {
			return []uint32{0}, unchanged, nil
		}
		l := line{oid: uint32(oid), mark: id[len(number):], before: *x}
		lines = append(lines, l)
		if l.mark == "f" {
			files = append(files, l.oid)
		} else {
			oids = append(oids, l.oid)
		}
	}
	current, err := CountFiles(ctx, c, files)
	if err != nil {
		return nil, "", err
	}
	now, err := Count(ctx, c, oids)
	if err != nil {
		return nil, "", err
	}
	version := pgdial.Version(c.PgConn())
	var b strings.Builder
	for _, l := range lines {
		after, exists := now[l.oid]
		differs, told := false, true
		if l.mark == "f" {
			after, exists = current[l.oid]
			differs = after.File != l.before.File
		} else {
			differs, told = (&Table{Unlogged: l.mark == "u"}).differ(l.before, after, version)
		}
		if differs || !told || !exists {
			changed = append(changed, l.oid)
		}
		if exists {
			fmt.Fprintf(&b, "%d%s %s\n", l.oid, l.mark, after)
		}
	}
	if b.Len() == 0 {
		b.WriteString("\n")
	}
	return changed, b.String(), nil
}
