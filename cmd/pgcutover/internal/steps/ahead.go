package steps

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A slot carries rows and no values of sequences. If an old primary takes the place of an open
// target without a cutover back, its sequences would give values again that the target has given.

// moveAhead moves the source's sequences ahead: to the target's values or, if the target cannot be
// asked, to the highest values in the rows that scripts/sync --reverse has brought. It never moves
// a sequence back, and does not fail: the source is needed now.
func moveAhead(ctx context.Context, s *session.Session) {
	if _, err := s.OnSource.Exec(ctx, "SET default_transaction_read_only = off"); err != nil {
		s.Log.Warn("the source's sequences were not moved ahead: " + s.Source.Explain(err).Error())
		return
	}
	values, err := targetValues(ctx, s)
	if err == nil && values != nil {
		n, err := raise(ctx, s, values)
		if err == nil {
			s.Log.Info(fmt.Sprintf("unfence: %s moved ahead to the target's values", count.Of(n, "sequence")))
			return
		}
	}
	values, unknown, err := rowValues(ctx, s)
	n := 0
	if err == nil {
		n, err = raise(ctx, s, values)
	}
	detail := fmt.Sprintf("%s moved ahead to the highest values in the rows of the source.", count.Of(n, "sequence"))
	if err != nil {
		detail = "No sequence was moved ahead: " + s.Source.Explain(err).Error() + "."
	}
	if len(unknown) > 0 {
		detail += " No column with an index shows the values of " + count.Some(unknown) + "."
	}
	s.Log.Warn("the target could not be asked for the values of its sequences: those that it has given, and that are in no row of the source, would be given again",
		"detail", detail, "hint", "To leave a distance of 10000 values, on the source, as owner of the sequences: "+
			"SELECT seqrelid::pg_catalog.regclass, pg_catalog.setval(seqrelid, pg_catalog.pg_sequence_last_value(seqrelid) + 10000 * seqincrement) FROM pg_catalog.pg_sequence WHERE pg_catalog.pg_sequence_last_value(seqrelid) IS NOT NULL;")
}

// targetValues returns the last values of the target's sequences by the OID of the source's
// sequence, or nil if the target cannot be asked.
func targetValues(ctx context.Context, s *session.Session) (map[uint32]int64, error) {
	if s.OnTarget == nil || s.Stream == nil {
		return nil, nil
	}
	pairs, err := progress.SequencePairs(ctx, s.OnTarget, s.Stream.ID)
	if err == nil && len(pairs) == 0 { // nobody has prepared the cutover
		pairs, _, err = pairSequences(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	oids := make([]uint32, len(pairs))
	for i, p := range pairs {
		oids[i] = p.Target
	}
	last, err := catalog.LastValues(ctx, s.OnTarget, oids)
	if err != nil {
		return nil, err
	}
	values := make(map[uint32]int64, len(pairs))
	for _, p := range pairs {
		if v, called := last[p.Target]; called {
			values[p.Source] = v
		}
	}
	return values, nil
}

// rowValues returns the outermost value of the columns that each sequence of the source feeds. It
// asks only where an index knows it. unknown are the other sequences.
func rowValues(ctx context.Context, s *session.Session) (values map[uint32]int64, unknown []string, err error) {
	rows, err := s.OnSource.Query(ctx, `SELECT s.seqrelid, pg_catalog.format('%I.%I', n.nspname, q.relname), coalesce(pg_catalog.string_agg(pg_catalog.format('SELECT %s(%I)::pg_catalog.int8 AS v FROM %I.%I',
			CASE WHEN s.seqincrement > 0 THEN 'pg_catalog.max' ELSE 'pg_catalog.min' END, a.attname, tn.nspname, t.relname), ' UNION ALL ') FILTER (WHERE u.seq IS NOT NULL), ''), s.seqincrement > 0
		FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class q ON q.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = q.relnamespace
		LEFT JOIN (SELECT d.objid AS seq, d.refobjid AS rel, d.refobjsubid AS col FROM pg_catalog.pg_depend d
				WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
			UNION SELECT d.refobjid, e.adrelid, e.adnum FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef e ON e.oid = d.objid
				WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) u
			JOIN pg_catalog.pg_class t ON t.oid = u.rel AND t.relkind IN ('r', 'p') JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
			JOIN pg_catalog.pg_attribute a ON a.attrelid = u.rel AND a.attnum = u.col AND a.atttypid IN (20, 21, 23)
			JOIN LATERAL (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid JOIN pg_catalog.pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
				WHERE i.indrelid = u.rel AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = u.col LIMIT 1) i ON true ON u.seq = s.seqrelid
		WHERE q.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') GROUP BY 1, 2, s.seqincrement ORDER BY 2`)
	if err != nil {
		return nil, nil, err
	}
	type sequence struct {
		oid       uint32
		name, sql string
		up        bool
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (q sequence, err error) {
		return q, row.Scan(&q.oid, &q.name, &q.sql, &q.up)
	})
	values = make(map[uint32]int64)
	for _, q := range list {
		if q.sql == "" {
			unknown = append(unknown, q.name)
			continue
		}
		outermost := "max"
		if !q.up {
			outermost = "min"
		}
		var v *int64
		if err := s.OnSource.QueryRow(ctx, "SELECT pg_catalog."+outermost+"(v) FROM ("+q.sql+") x").Scan(&v); err != nil {
			unknown = append(unknown, q.name)
		} else if v != nil {
			values[q.oid] = *v
		}
	}
	return values, unknown, err
}

// raise moves the source's sequences ahead to values, and returns how many have moved.
func raise(ctx context.Context, s *session.Session, values map[uint32]int64) (n int, err error) {
	if len(values) == 0 {
		return 0, nil
	}
	var list []string
	for oid, v := range values {
		list = append(list, fmt.Sprintf("(%d::pg_catalog.oid, '%d'::pg_catalog.int8)", oid, v))
	}
	err = s.OnSource.QueryRow(ctx, `SELECT pg_catalog.count(pg_catalog.setval(x.o::pg_catalog.regclass, x.v)) FROM (VALUES `+strings.Join(list, ", ")+`) x(o, v) JOIN pg_catalog.pg_sequence s ON s.seqrelid = x.o
		WHERE x.v BETWEEN s.seqmin AND s.seqmax AND (x.v - coalesce(pg_catalog.pg_sequence_last_value(x.o)::pg_catalog.numeric, s.seqstart::pg_catalog.numeric - s.seqincrement)) * pg_catalog.sign(s.seqincrement::pg_catalog.numeric) > 0`).Scan(&n)
	return n, err
}
