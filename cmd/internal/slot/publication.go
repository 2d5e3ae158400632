package slot

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// InsertOnly is the name of the publication for the tables that have no usable replica identity:
// see package carried.
func InsertOnly(publication string) string { return publication + "_insert_only" }

// QuoteAll returns names of publications as the output plugin parses them: each in double quotes.
// It does not know the U&"" of SQL.
func QuoteAll(publications []string) string {
	quoted := make([]string, len(publications))
	for i, p := range publications {
		quoted[i] = pgx.Identifier{p}.Sanitize()
	}
	return strings.Join(quoted, ",")
}

// Publications returns those of the given publications that exist, together with the insert-only
// companions of each.
func Publications(ctx context.Context, c *pgx.Conn, names []string) ([]string, error) {
	all := make([]string, 0, 2*len(names))
	for _, n := range names {
		all = append(all, n, InsertOnly(n))
	}
	rows, err := c.Query(ctx, "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname = ANY($1) ORDER BY 1", all)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// RequirePublications is like Publications, and fails if one of the names does not exist.
func RequirePublications(ctx context.Context, c *pgx.Conn, names []string) ([]string, error) {
	have, err := Publications(ctx, c, names)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !slices.Contains(have, n) {
			return nil, fault.New(fault.Unavailable, "publication %q does not exist on the source", n).
				WithHint("pgextract creates the publication together with the slot. A publication created after the slot cannot serve it: the target needs a new full load. %s", Anew(n))
		}
	}
	return have, nil
}

// PublicationsOf returns the publications of a slot: those with its binding, or else the one with
// its name, and the insert-only companions of each.
func PublicationsOf(ctx context.Context, c *pgx.Conn, slot string) ([]string, error) {
	rows, err := c.Query(ctx, "SELECT pubname::pg_catalog.text FROM pg_catalog.pg_publication")
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	all, err := comments(ctx, c, names)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, n := range names {
		if _, found := bindingIn(all[n], slot); found {
			list = append(list, n)
		}
	}
	if len(list) == 0 {
		list = []string{slot}
	}
	return Publications(ctx, c, list)
}
