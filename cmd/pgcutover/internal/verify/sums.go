package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A comparison says how rows are compared.
type comparison struct {
	text     string // expression for the text of a row r, as bytes that are the same on both sides
	digest   string // expression for what the hashes of a row are taken from
	a, b     string // the two hashes of a digest r
	settings string // for a transaction
	nodes    bool   // the target's rows are on several nodes
}

// chooseHash decides how rows are compared. It uses the server's own hash function if both sides
// have the same one.
func (v *verification) chooseHash(ctx context.Context) error {
	a, b, how := v.OnSource, v.target.Keep, &v.how
	if oldFloats(a, b) {
		// Numbers within other values, such as arrays: both versions print them alike if rounded to
		// 15 digits.
		how.settings = "; SET LOCAL extra_float_digits = 0"
	}
	how.text, how.nodes = "r", v.Stream.Citus
	if a.PgConn().ParameterStatus("server_encoding") != b.PgConn().ParameterStatus("server_encoding") {
		how.text = "pg_catalog.convert_to(r, 'UTF8')"
	}
	how.digest = "pg_catalog.md5(" + how.text + ")"
	how.a, how.b = "('x' || pg_catalog.substr(r, 1, 16))::bit(64)::bigint", "('x' || pg_catalog.substr(r, 17, 16))::bit(64)::bigint"
	if how.text != "r" || pgdial.Version(a.PgConn()) < 110000 || pgdial.Version(b.PgConn()) < 110000 {
		return nil
	}
	fast := comparison{text: how.text, digest: "r", a: `pg_catalog.hashtextextended(r COLLATE "C", 0)`,
		b: `pg_catalog.hashtextextended(r COLLATE "C", 1)`, settings: how.settings, nodes: how.nodes}
	var x, y string
	probe := "SELECT " + fast.a + " || '/' || " + fast.b + " FROM (VALUES ('pgsluice'), ('')) v(r)"
	if err := a.QueryRow(ctx, probe).Scan(&x); err != nil {
		return v.Source.Explain(err)
	}
	if err := b.QueryRow(ctx, probe).Scan(&y); err != nil {
		return v.Target.Explain(err)
	}
	if x == y {
		*how = fast
	}
	return nil
}

// settings returns the settings of a transaction that reads rows of one side.
func (v *verification) settings(server pgdial.Server) string {
	if server.Side == v.Target.Side && v.Stream.Citus {
		return "; " + citus.Alone(citus.Reads+v.how.settings)
	}
	return v.how.settings
}

func (p *pair) rowText() string {
	if len(p.columns) == 0 {
		return "''::pg_catalog.text" // 9.6 does not take the literal of a subquery for text
	}
	if p.large {
		return p.hashes()
	}
	return "ROW(" + strings.Join(p.columns, ", ") + ")::pg_catalog.text"
}

// from returns the table on one side, without its inheritance children.
func (p *pair) from(target bool) string {
	if !target && len(p.leaves) > 0 {
		return p.fromLeaves()
	}
	if !target {
		return "ONLY " + pgx.Identifier{p.schema, p.name}.Sanitize()
	}
	if p.whole {
		return pgx.Identifier{p.targetSchema, p.targetName}.Sanitize()
	}
	return "ONLY " + pgx.Identifier{p.targetSchema, p.targetName}.Sanitize()
}

// digests returns a query for the digests r of a part's rows. OFFSET keeps the server from merging
// it with the query around it, where it would compute r for each use. With the number 0 instead of
// a literal, the server would not read the table with several processes.
func (how *comparison) digests(p part, target bool) string {
	sql := "SELECT " + how.digest + " AS r FROM (SELECT " + p.rowText() + " AS r FROM " + p.from(target) + p.where + ") x"
	if target && how.nodes {
		return sql // with OFFSET, all digests would come to the coordinator
	}
	return sql + " OFFSET '0'"
}

func (how *comparison) sumSQL(p part, target bool) string {
	return "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(" + how.a + "), 0)::pg_catalog.text, coalesce(pg_catalog.sum(" + how.b +
		"), 0)::pg_catalog.text FROM (" + how.digests(p, target) + ") x"
}

// A queue hands out a side's parts to its sessions, the largest tables first.
type queue struct {
	mu   sync.Mutex
	list []part
}

func (q *queue) next() *part {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) > 0 {
		p := &q.list[0]
		q.list = q.list[1:]
		if p.problem == "" {
			return p
		}
	}
	return nil
}

// A summer is a session that sums tables of one side.
type summer struct {
	*verification
	server  pgdial.Server
	name    string // the name of the snapshot
	conn    *pgx.Conn
	results *sync.Mutex // guards the pairs' sums and errors
	pace    *pace       // nil: without a limit
}

// sumAll sums all tables on both sides, several at a time.
func (v *verification) sumAll(ctx context.Context, pairs []*pair) error {
	largest := slices.Clone(pairs)
	slices.SortStableFunc(largest, func(a, b *pair) int { return cmp.Compare(b.bytes, a.bytes) })
	var results sync.Mutex
	var sides [2]*queue
	for i, server := range []pgdial.Server{v.Source, v.Target} {
		parts, err := v.parts(ctx, server, largest)
		if err != nil {
			return server.Explain(err)
		}
		sides[i] = &queue{list: parts}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, server := range []pgdial.Server{v.Source, v.Target} {
		var limit *pace
		if v.Rate > 0 {
			limit = &pace{each: time.Second / time.Duration(v.Rate)}
		}
		for range v.Jobs {
			g.Go(func() error {
				s := &summer{verification: v, server: server, name: v.snapshot(server), results: &results, pace: limit}
				return s.run(ctx, sides[i])
			})
		}
	}
	return g.Wait()
}

// snapshot returns the name of a side's snapshot.
func (v *verification) snapshot(server pgdial.Server) string {
	if server.Side == v.Target.Side {
		return v.target.Name
	}
	return v.source.Name
}

func (s *summer) run(ctx context.Context, q *queue) (err error) {
	if s.conn, err = openSnapshot(ctx, s.server, s.name, s.settings(s.server)); err != nil {
		return err
	}
	defer func() {
		if s.conn != nil {
			_ = s.conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for n := 1; ; n++ {
		if n%session.LocksAtOnce == 0 {
			// Commit to release the locks. Another session holds the snapshot.
			if _, err := s.conn.Exec(ctx, "COMMIT; "+inSnapshot(s.name)+s.settings(s.server)); err != nil {
				return s.server.Explain(err)
			}
		}
		p := q.next()
		if p == nil {
			return nil
		}
		if err := s.sum(ctx, p); err != nil {
			return err
		}
	}
}

// sum sums a part of a table. It records an error that concerns only this table, so that the others
// continue.
func (s *summer) sum(ctx context.Context, p *part) error {
	onTarget := s.server.Side == s.Target.Side
	x := &p.source
	if onTarget {
		x = &p.target
	}
	got, why := s.read(ctx, p, onTarget)
	switch {
	case why == nil:
		s.results.Lock()
		x.add(got)
		s.results.Unlock()
		return nil
	case !isTooLarge(why) && !isOfTable(why):
		return s.server.Explain(fmt.Errorf("could not compare table %s.%s: %w", p.schema, p.name, why))
	}
	_ = s.conn.Close(ctx)
	var err error
	if s.conn, err = openSnapshot(ctx, s.server, s.name, s.settings(s.server)); err != nil {
		return err
	}
	remedy, err := s.readable(ctx, s.conn, s.server.Side, p.pair, why)
	if err != nil {
		return s.server.Explain(err)
	}
	s.results.Lock()
	p.unverified, p.cause, p.remedy = s.server.Side+": "+why.Error(), why, remedy
	s.results.Unlock()
	return nil
}

// read computes the sum of a part.
func (s *summer) read(ctx context.Context, p *part, onTarget bool) (got *sum, err error) {
	if s.pace != nil {
		return s.readSlowly(ctx, p, onTarget)
	}
	got = new(sum)
	var a, b string
	if err := s.conn.QueryRow(ctx, s.how.sumSQL(*p, onTarget), pgx.QueryExecModeExec).Scan(&got.rows, &a, &b); err != nil {
		return got, err
	}
	got.a.SetString(a, 10)
	got.b.SetString(b, 10)
	return got, nil
}

// inSnapshot returns the statements that begin a transaction which reads from a snapshot.
func inSnapshot(snapshot string) string {
	return "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT " + slot.QuoteLiteral(snapshot)
}

func openSnapshot(ctx context.Context, server pgdial.Server, snapshot, settings string) (*pgx.Conn, error) {
	c, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	_, err = c.Exec(ctx, inSnapshot(snapshot)+settings+"; "+pgdial.TablesOnly(server.Side))
	if err != nil {
		_ = c.Close(ctx)
		return nil, server.Explain(err)
	}
	return c, nil
}
