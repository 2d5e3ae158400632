package verify

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// isTooLarge reports whether the server could not build the text of a row because it exceeds the
// server's size limit.
func isTooLarge(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "54000" ||
		pg.Code == "XX000" && strings.Contains(pg.Message, "invalid memory alloc request size"))
}

// isOfTable reports whether an error concerns only one table, so that the others can still be
// compared. For example, the planner inlines the functions of a table's indexes, and a function
// that relies on its caller's search path fails there.
func isOfTable(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) != 5 {
		return false
	}
	switch pg.Code[:2] {
	case "22", "38", "39", "42", "P0":
		return true
	}
	return false
}

// tooLarge returns the pairs that have such rows, prepared for a comparison by the hashes of their
// columns.
func tooLarge(pairs []*pair) (large []*pair) {
	for _, p := range pairs {
		if p.unverified != "" && !p.large {
			p.unverified, p.large = "", true
			p.source, p.target = sum{}, sum{} // some of its parts may have been summed
			large = append(large, p)
		}
	}
	return large
}

// hashes returns an expression for a row with each column replaced by its hash.
func (p *pair) hashes() string {
	list := make([]string, len(p.names))
	for i, name := range p.names {
		q := pgx.Identifier{name}.Sanitize()
		// The text of a bytea is twice as long as its value.
		value := "pg_catalog.convert_to(pg_catalog.concat(" + p.columns[i] + "), 'UTF8')"
		if p.types[i] == "bytea" {
			value = q
		}
		list[i] = "CASE WHEN " + q + " IS DISTINCT FROM NULL THEN pg_catalog.md5(" + value + ") END"
	}
	return "ROW(" + strings.Join(list, ", ") + ")::pg_catalog.text"
}
