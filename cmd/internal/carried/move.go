package carried

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Stamp returns a value that changes whenever a table may have lost or gained its replica identity,
// and whenever a publication is altered. It takes a small part of the time that Tables takes.
func Stamp(ctx context.Context, c *pgx.Conn) (stamp string, err error) {
	const of = "(SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(t.xmin, t.ctid)))) FROM pg_catalog."
	err = c.QueryRow(ctx, "SELECT pg_catalog.concat_ws(',', "+of+"pg_class t WHERE t.relkind IN ('r', 'p') AND t.relpersistence = 'p'), "+
		of+"pg_index t WHERE t.indisunique), "+of+"pg_attrdef t), "+of+"pg_inherits t), "+of+
		"pg_publication t), "+of+"pg_publication_rel t))").Scan(&stamp)
	return stamp, err
}

// A Move puts a table, or a partitioned table with its partitions, into the right publication.
type Move struct {
	Lost  []*Table // tables whose UPDATE and DELETE are no longer carried
	Got   []*Table // tables whose UPDATE and DELETE are carried from now on
	Lacks []string // statements that give the role the missing rights
	// the table only left the first publication, because the role may not add it to the second
	OnlyLeft bool
	Err      error // why the move failed

	leave, join []string
}

// Moves returns the moves to make between a publication and its companion for inserts. It returns
// nothing if pgextract did not create the two publications.
func (s *State) Moves(name string) (list []*Move) {
	both := []string{name, slot.InsertOnly(name)}
	first, second := s.Publication(both[0]), s.Publication(both[1])
	if first == nil || second == nil || first.AllTables || second.AllTables || !first.Update || second.Update {
		return nil
	}
	p := s.Replace(both[0], both[1])
	top := func(t *Table) uint32 {
		if t.Root != 0 && s.Version >= 130000 {
			return t.Root
		}
		return t.OID
	}
	groups := make(map[uint32]*Placement)
	var order []uint32
	for i, tables := range [][]*Table{p.Leave, p.Back, p.Full, p.Insert} {
		for _, t := range tables {
			g := groups[top(t)]
			if g == nil {
				g = new(Placement)
				groups[top(t)], order = g, append(order, top(t))
			}
			part := []*[]*Table{&g.Leave, &g.Back, &g.Full, &g.Insert}[i]
			*part = append(*part, t)
		}
	}
	members := make(map[uint32][]*Table)
	for _, t := range s.Rows() {
		if groups[top(t)] != nil {
			members[top(t)] = append(members[top(t)], t)
		}
	}
	for _, oid := range order {
		g := groups[oid]
		m := &Move{leave: g.leave(both), join: g.join(both), Lacks: s.lacks([]*Publication{first, second}, slices.Concat(g.Full, g.Insert))}
		schema := false
		for _, t := range slices.Concat(g.Leave, g.Back, g.Full, g.Insert) {
			for _, in := range t.In {
				schema = schema || in.Schema
			}
		}
		if schema {
			continue // somebody published the schema on purpose
		}
		for _, t := range members[oid] {
			was := slices.ContainsFunc(s.chain(t), func(x *Table) bool { return x.in(first) != nil })
			switch usable := t.Identity.usable(s.Version, false); {
			case was && !usable:
				m.Lost = append(m.Lost, t)
			case !was && usable:
				m.Got = append(m.Got, t)
			}
		}
		list = append(list, m)
	}
	return list
}

// Make makes a move in one transaction. If the role may not put a table into the publication of
// inserts, Make still takes it out of the other one: the source's application must keep working.
func (m *Move) Make(ctx context.Context, c *pgx.Conn) error {
	m.Err = execute(ctx, c, slices.Concat(m.leave, m.join))
	if IsDenied(m.Err) && len(m.Lost) > 0 && execute(ctx, c, m.leave) == nil {
		m.OnlyLeft, m.Err = true, nil
	}
	return m.Err
}

// IsDenied reports whether a role lacks a right.
func IsDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

// pairOf returns the first named publication that has a companion for inserts, and the companion.
func (s *State) pairOf(names []string) (first, second *Publication) {
	for _, n := range names {
		if second = s.Publication(slot.InsertOnly(n)); second != nil {
			return s.Publication(n), second
		}
	}
	return nil, nil
}

// lacks returns the statements that give the role the rights to move tables between publications.
// It never grants a superuser's role.
func (s *State) lacks(publications []*Publication, tables []*Table) (list []string) {
	add := func(foreign int, owner, alter string) {
		sql := ""
		switch foreign {
		case ofOther:
			sql = "GRANT " + text.Ident(owner) + " TO " + text.Ident(s.Role)
			if s.Version >= 160000 {
				sql += " WITH INHERIT TRUE"
			}
		case ofSuperuser:
			sql = alter + " OWNER TO " + text.Ident(s.Role)
		}
		if sql += ";"; sql != ";" && !slices.Contains(list, sql) {
			list = append(list, sql)
		}
	}
	for _, p := range publications {
		add(p.Foreign, p.Owner, "ALTER PUBLICATION "+text.Ident(p.Name))
	}
	for _, t := range tables {
		add(t.Foreign, t.Owner, "ALTER TABLE "+text.Ident(t.Schema, t.Name))
	}
	return list
}
