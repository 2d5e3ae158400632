package copyout

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/format"
)

// A Part is a part of a table's rows.
type Part struct {
	Table   *catalog.Table
	Index   int // from 1
	Of      int
	Where   string // the condition for its rows; empty: all
	ByKey   bool   // they are found by an index
	Columns []string
	Format  string // format.CopyText or CopyBinary
	Bytes   int64  // estimate
	Rows    int64
}

// PageSize is the size of a page of a table.
const PageSize = 8192

// MinPart is the smallest size of a part in bytes. Smaller parts cost more than they gain.
const MinPart = 128 << 20

// maxPart is the largest size of a part in bytes: an interrupted load repeats whole parts.
const maxPart = 2 << 30

// Plan splits tables, which come largest first, into parts for a number of connections, in reading
// order. From PostgreSQL 14 on it splits by ranges of pages, which the server reads without
// scanning the rest. Older servers need ranges of a numeric primary key. Plan queries the server
// over c, within the snapshot.
func Plan(ctx context.Context, c *pgx.Conn, tables []*catalog.Table, jobs, version int, copyFormat string) (parts []*Part, err error) {
	var total int64
	for _, t := range tables {
		total += t.Bytes
	}
	size := min(max(total/int64(4*jobs), MinPart), maxPart)
	if version < 140000 {
		// A range of keys is read from the table. The snapshot's own session would keep the table
		// locked until the load ends.
		if _, err := c.Exec(ctx, "SAVEPOINT pgsluice_plan"); err != nil {
			return nil, err
		}
		defer func() {
			if _, e := c.Exec(ctx, "ROLLBACK TO SAVEPOINT pgsluice_plan"); err == nil && e != nil {
				err = e
			}
		}()
	}
	for _, t := range tables {
		n := max(1, (t.Bytes+size/2)/size)
		if n > int64(jobs) {
			n = (n + int64(jobs) - 1) / int64(jobs) * int64(jobs) // all connections end at the same time
		}
		where := []string{""}
		byKey := false
		switch {
		case n == 1 || t.Condition != "":
		case version >= 140000:
			where = pages(t.Pages, n)
		default:
			from, to, key, err := catalog.KeyRange(ctx, c, t)
			if err != nil {
				return nil, err
			}
			if key != "" {
				where = keys(quote(key), from, to, n)
				byKey = true
			}
		}
		for i, w := range where {
			k := int64(len(where))
			p := &Part{Table: t, Index: i + 1, Of: len(where), Where: w, ByKey: byKey, Bytes: t.Bytes / k,
				Rows: max(t.Rows, 0) / k, Format: copyFormat}
			if p.Format == "" {
				p.Format = Format(t, c.PgConn().ParameterStatus("integer_datetimes") == "off")
			}
			for _, col := range t.Columns {
				if !col.Generated {
					p.Columns = append(p.Columns, col.Name)
				}
			}
			parts = append(parts, p)
		}
	}
	return parts, nil
}

// pages returns conditions for n ranges of a table's pages. The last one has no end: the table may
// have grown.
func pages(all, n int64) []string {
	list := make([]string, n)
	for i := range n {
		list[i] = fmt.Sprintf("ctid >= '(%d,0)'", all*i/n)
		if i < n-1 {
			list[i] += fmt.Sprintf(" AND ctid < '(%d,0)'", all*(i+1)/n)
		}
	}
	return list
}

// keys returns conditions for at most n ranges of a key between its least and its greatest value.
func keys(column string, from, to, n int64) []string {
	// unsigned arithmetic is correct even where the difference overflows int64
	width := uint64(to) - uint64(from)
	n = int64(min(uint64(n), max(width, 1)))
	if n <= 1 {
		return []string{""}
	}
	bound := func(i int64) int64 { return int64(uint64(from) + width/uint64(n)*uint64(i)) }
	list := make([]string, n)
	for i := range n {
		var w []string
		if i > 0 {
			w = append(w, fmt.Sprintf("%s >= '%d'", column, bound(i)))
		}
		if i < n-1 {
			w = append(w, fmt.Sprintf("%s < '%d'", column, bound(i+1)))
		}
		list[i] = strings.Join(w, " AND ")
	}
	return list
}

// SQL returns the COPY statement that reads the part. columns are the names that the columns have
// now.
func (p *Part) SQL(columns []string) string {
	cols := make([]string, len(columns))
	for i, c := range columns {
		cols[i] = quote(c)
	}
	list := strings.Join(cols, ", ")
	name := quote(p.Table.Schema) + "." + quote(p.Table.Name)
	var from string
	switch {
	case p.Where != "":
		from = fmt.Sprintf("(SELECT %s FROM ONLY %s WHERE %s)", list, name, p.Where)
	case p.Table.Condition != "":
		from = fmt.Sprintf("(SELECT %s FROM ONLY %s %s)", list, name, p.Table.Condition)
	case len(cols) == 0:
		from = name // rows without columns
	default:
		from = name + " (" + list + ")"
	}
	sql := "COPY " + from + " TO STDOUT"
	if p.Format == format.CopyBinary {
		sql += " WITH (FORMAT binary)"
	}
	return sql
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
