package carried

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// Publish makes sure that the wanted tables are published, each in the right one of two
// publications (see Place). It creates the missing publications, both in one transaction. It always
// creates the second one: a table without an identity may be created later, and a slot cannot use a
// publication that is younger than the slot.
//
// A publication without a companion belongs to somebody else. Publish does not change it, and uses
// it if it carries everything that is wanted. Publish returns what is carried afterwards.
func Publish(ctx context.Context, c *pgx.Conn, name string, wanted func(*Table) bool) (*State, error) {
	both := []string{name, slot.InsertOnly(name)}
	s, err := Tables(ctx, c, both)
	if err != nil {
		return nil, err
	}
	there, err := slot.Publications(ctx, c, []string{name})
	if err != nil {
		return nil, err
	}
	if len(there) == 1 && there[0] == name {
		if err := s.enough(name, wanted); err != nil {
			return nil, err
		}
		return s, slot.EnsureRecorded(ctx, c, name)
	}
	if err := execute(ctx, c, s.statements(both, there, wanted)); err != nil {
		return nil, publishing(err)
	}
	if err := slot.EnsureRecorded(ctx, c, name); err != nil {
		return nil, err
	}
	return Tables(ctx, c, both)
}

// statements returns the statements that put the wanted tables into the right publications.
func (s *State) statements(both, there []string, wanted func(*Table) bool) (list []string) {
	p := s.Place(both[0], both[1], wanted)
	list = p.leave(both)
	truncate := ", truncate"
	if s.Version < 110000 {
		truncate = ""
	}
	for i, tables := range [][]*Table{p.Full, p.Insert} {
		id := pgx.Identifier{both[i]}.Sanitize()
		exists := false
		for _, x := range there {
			exists = exists || x == both[i]
		}
		switch {
		case exists && len(tables) > 0:
			list = append(list, "ALTER PUBLICATION "+id+" ADD TABLE "+only(tables))
		case !exists:
			sql := "CREATE PUBLICATION " + id
			if len(tables) > 0 {
				sql += " FOR TABLE " + only(tables)
			}
			if i == 1 {
				sql += " WITH (publish = 'insert" + truncate + "')"
			}
			list = append(list, sql)
		}
	}
	return list
}

// leave returns the statements that take tables out of the two publications.
func (p *Placement) leave(both []string) (list []string) {
	for i, tables := range [][]*Table{p.Leave, p.Back} {
		if len(tables) > 0 {
			list = append(list, "ALTER PUBLICATION "+pgx.Identifier{both[i]}.Sanitize()+" DROP TABLE "+only(tables))
		}
	}
	return list
}

// join returns the statements that put tables into the two publications.
func (p *Placement) join(both []string) (list []string) {
	for i, tables := range [][]*Table{p.Full, p.Insert} {
		if len(tables) > 0 {
			list = append(list, "ALTER PUBLICATION "+pgx.Identifier{both[i]}.Sanitize()+" ADD TABLE "+only(tables))
		}
	}
	return list
}

func execute(ctx context.Context, c *pgx.Conn, list []string) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		for _, sql := range list {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

func publishing(err error) error {
	if IsDenied(err) {
		return fault.New(fault.Permission, "could not publish the tables on the source: %w", err).
			WithHint("The role must own the tables (GRANT their owners' roles to it) and have CREATE on the database.")
	}
	return err
}

// only lists tables with ONLY, which excludes the tables that inherit from them. Partitions still
// go with their partitioned table.
func only(tables []*Table) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = "ONLY " + pgx.Identifier{t.Schema, t.Name}.Sanitize()
	}
	return strings.Join(names, ", ")
}

// enough refuses somebody else's publication that does not carry everything that is wanted.
func (s *State) enough(name string, wanted func(*Table) bool) error {
	const most = 5
	var lacks []string
	n := 0
	for _, t := range s.Rows() {
		if !wanted(t) {
			continue
		}
		for _, r := range t.Reasons {
			// The source refuses these statements with or without pgextract.
			if r.Known() || r.Code == Refuses {
				continue
			}
			if n++; n <= most {
				lacks = append(lacks, fmt.Sprintf("%v %v", t, r))
			}
			break
		}
	}
	if n == 0 {
		return nil
	}
	if n > most {
		lacks = append(lacks, fmt.Sprintf("and %d more", n-most))
	}
	return fault.New(fault.Config,
		"publication %q was not made by pgextract, and does not carry all that would be loaded: %s", name,
		count.Of(n, "table")).
		WithDetail("%s.", strings.Join(lacks, "; ")).
		WithHint("Let it carry all (ALTER PUBLICATION %s …), or choose another name with --publication: pgextract makes the publication itself if there is none of that name.",
			pgx.Identifier{name}.Sanitize())
}

// Detaching returns the wanted tables with a pending DETACH CONCURRENTLY.
func (s *State) Detaching(wanted func(*Table) bool) (list []*Table) {
	for _, t := range s.Tables {
		if t.DetachPending && (t.Kind == "p" || wanted(t)) {
			list = append(list, t)
		}
	}
	return list
}

// Finalize returns the statement that completes a pending DETACH of a table.
func (s *State) Finalize(t *Table) string {
	up := s.byOID[t.Parent]
	if up == nil {
		return ""
	}
	return "ALTER TABLE " + pgx.Identifier{up.Schema, up.Name}.Sanitize() + " DETACH PARTITION " +
		pgx.Identifier{t.Schema, t.Name}.Sanitize() + " FINALIZE"
}

// PublishPosition adds pgsluice.streams to a publication that pgextract created, unless the table
// is there.
func PublishPosition(ctx context.Context, c *pgx.Conn, name string) error {
	var missing bool
	if err := c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication s ON s.pubname = $2 WHERE p.pubname = $1 AND NOT p.puballtables
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = pg_catalog.to_regclass('pgsluice.streams')))`,
		name, slot.InsertOnly(name)).Scan(&missing); err != nil || !missing {
		return err
	}
	return execute(ctx, c, []string{"ALTER PUBLICATION " + pgx.Identifier{name}.Sanitize() + " ADD TABLE ONLY pgsluice.streams"})
}
