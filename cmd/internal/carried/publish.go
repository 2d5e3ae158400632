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
// publications, which it makes where they are missing: see Place. Both are made in one transaction,
// and the second one in any case: a table without identity may be created later, and a publication
// that is younger than its slot cannot serve it. One that stands alone is somebody else's, for
// which he has his reasons: it is left as it is, and used if it carries all that is wanted. Publish
// returns what is carried then.
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

// statements returns what brings both publications to where the wanted tables belong.
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

// leave returns what takes tables out of the two publications.
func (p *Placement) leave(both []string) (list []string) {
	for i, tables := range [][]*Table{p.Leave, p.Back} {
		if len(tables) > 0 {
			list = append(list, "ALTER PUBLICATION "+pgx.Identifier{both[i]}.Sanitize()+" DROP TABLE "+only(tables))
		}
	}
	return list
}

// join returns what puts tables into the two publications.
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

// only names tables without those that inherit from them; partitions go with their partitioned
// table.
func only(tables []*Table) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = "ONLY " + pgx.Identifier{t.Schema, t.Name}.Sanitize()
	}
	return strings.Join(names, ", ")
}

// enough refuses somebody else's publication that does not carry what is wanted.
func (s *State) enough(name string, wanted func(*Table) bool) error {
	const most = 5
	var lacks []string
	n := 0
	for _, t := range s.Rows() {
		if !wanted(t) {
			continue
		}
		for _, r := range t.Reasons {
			// What the source refuses, it refuses without us.
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

// Finalize returns the statement that ends a pending DETACH of a table.
func (s *State) Finalize(t *Table) string {
	up := s.byOID[t.Parent]
	if up == nil {
		return ""
	}
	return "ALTER TABLE " + pgx.Identifier{up.Schema, up.Name}.Sanitize() + " DETACH PARTITION " +
		pgx.Identifier{t.Schema, t.Name}.Sanitize() + " FINALIZE"
}
