package steps

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Thousands of foreign keys and triggers are created in a few sessions at once. Each session sends
// all of its transactions as one query, so that the number of round trips does not depend on the
// number of objects. A refusal ends the query. Then the objects of the refused transaction are
// created one by one, and the rest as one query again.
//
// A transaction holds the lock of a table while it waits for another one only if it creates a
// foreign key: it then holds that of the table that has the key, and waits for that of the table
// that the key references. The keys that reference a table belong to one session: otherwise the
// sessions would wait for each other, as thousands of keys may reference one table. Two tables that
// reference each other belong to one session, too. Sessions that wait in a longer circle are ended
// by the limit for locks, and what they wanted is tried again.

const (
	// lanesMost is how many sessions create objects.
	lanesMost = 4
	// laneFew is the number of objects for which one more session does not pay off.
	laneFew = 50
)

// A creation is a piece of work on an object: all of it, or its share of a partition.
type creation struct {
	progress.Object
	sql   string
	done  string // the statement that records it; empty if another creation of the object does
	own   string // its table
	lane  string // its table, or the one that it references; those of one table belong to one session
	alone bool   // it may wait for a lock while it holds another one
}

// A creator creates objects of a stream on the target.
type creator struct {
	*session.Session
	// each runs the transaction of one creation, and may run it again after a lock timeout.
	each func(ctx context.Context, do func() error) error
	// locked is called with an object that another session's lock has kept from being created.
	// Its error ends the work.
	locked func(o *progress.Object, err error) error
	// lockTimeout is set in each session.
	lockTimeout string

	mu      sync.Mutex
	created int
	failed  []progress.Object
}

// opener returns the creator of a target that is being opened, or is open.
func opener(s *session.Session, patience time.Duration) *creator {
	return &creator{Session: s, lockTimeout: waiting.LockTimeout,
		each:   func(ctx context.Context, do func() error) error { return s.Patiently(ctx, s.Target, patience, do) },
		locked: func(_ *progress.Object, err error) error { return err }}
}

// create creates the objects: first those that need no other one of the list, then the others in
// order.
func (c *creator) create(ctx context.Context, list []progress.Object) error {
	if len(list) == 0 {
		return nil
	}
	parts, err := c.partitions(ctx, list)
	if err != nil {
		return c.Target.Explain(err)
	}
	waits := make(map[int64]bool, len(list))
	for i := range list {
		waits[list[i].ID] = true
	}
	var first, second []creation
	for i := range list {
		o := &list[i]
		if slices.ContainsFunc(o.Needs, func(id int64) bool { return waits[id] }) || !independent(o.Type) {
			second = append(second, creation{Object: *o, sql: o.SQL, done: progress.DoneSQL(o.ID)})
		} else {
			first = append(first, creations(o, parts)...)
		}
	}
	if err := c.inLanes(ctx, first); err != nil {
		return err
	}
	return c.inLane(ctx, c.OnTarget, second)
}

// independent reports whether objects of a type may be created in any order.
func independent(kind string) bool {
	return kind == "FK CONSTRAINT" || kind == "TRIGGER" || kind == "RULE" || hold.Is(kind)
}

// inLanes creates objects in several sessions.
func (c *creator) inLanes(ctx context.Context, list []creation) error {
	g, gctx := errgroup.WithContext(ctx)
	for i, lane := range divide(list, min(lanesMost, 1+len(list)/laneFew)) {
		g.Go(func() error {
			conn := c.OnTarget
			if i > 0 {
				var err error
				if conn, err = c.Connect(gctx, c.Target); err != nil {
					return err
				}
				defer conn.Close(context.WithoutCancel(gctx))
			}
			return c.inLane(gctx, conn, lane)
		})
	}
	return g.Wait()
}

// divide divides creations among n sessions.
func divide(list []creation, n int) [][]creation {
	references := make(map[[2]string]bool)
	for _, x := range list {
		references[[2]string{x.own, x.lane}] = true
	}
	first := make(map[string]string) // of tables that reference each other, in one direction or more
	of := func(lane string) string {
		for first[lane] != "" {
			lane = first[lane]
		}
		return lane
	}
	for r := range references {
		if a, b := of(r[0]), of(r[1]); references[[2]string{r[1], r[0]}] && a != b {
			first[max(a, b)] = min(a, b)
		}
	}
	lanes := make(map[string][]creation)
	for _, x := range list {
		x.lane = of(x.lane)
		lanes[x.lane] = append(lanes[x.lane], x)
	}
	names := slices.SortedFunc(maps.Keys(lanes), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(lanes[b]), len(lanes[a])), cmp.Compare(a, b))
	})
	sessions := make([][]creation, n)
	for _, name := range names {
		least := slices.MinFunc(sessions, func(a, b []creation) int { return cmp.Compare(len(a), len(b)) })
		i := slices.IndexFunc(sessions, func(x []creation) bool { return len(x) == len(least) })
		sessions[i] = append(sessions[i], lanes[name]...)
	}
	return sessions
}

// inLane creates objects in one session.
func (c *creator) inLane(ctx context.Context, conn *pgx.Conn, list []creation) error {
	if len(list) == 0 {
		return nil
	}
	if c.Stream.Citus {
		for i := range list {
			list[i].sql = citus.Alone(list[i].sql)
		}
	}
	set := "SET check_function_bodies = off; SET synchronous_commit = " + citus.Commit(c.Stream.Citus) + "; SET lock_timeout = '" + c.lockTimeout + "'; "
	for rest := transactions(list); len(rest) > 0; rest = rest[1:] {
		n, err := query(ctx, conn, set, rest)
		for _, some := range rest[:n] {
			c.count(some)
		}
		if rest = rest[n:]; err == nil || len(rest) == 0 {
			return c.Target.Explain(err)
		}
		if !objects.Refused(err) || ctx.Err() != nil {
			return c.Target.Explain(err)
		}
		for _, x := range rest[0] {
			if err := c.one(ctx, conn, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// transactions divides creations into transactions, each of which holds few locks.
func transactions(list []creation) (all [][]creation) {
	begin, tables := 0, 1
	for i := range list {
		if i == begin {
			continue
		}
		x, last := &list[i], &list[i-1]
		other := x.Schema != last.Schema || x.Table != last.Table
		if x.alone || last.alone || other && (x.lane != "" || tables == session.LocksAtOnce) {
			all = append(all, list[begin:i])
			begin, tables = i, 1
		} else if other {
			tables++
		}
	}
	return append(all, list[begin:])
}

// query sends transactions as one query and returns how many of them have committed.
func query(ctx context.Context, conn *pgx.Conn, set string, all [][]creation) (n int, err error) {
	var sql strings.Builder
	sql.WriteString(set)
	for _, some := range all {
		sql.WriteString("BEGIN;\n")
		for _, x := range some {
			sql.WriteString(x.sql + "\n;")
		}
		for _, x := range some {
			sql.WriteString(x.done + ";")
		}
		sql.WriteString("COMMIT;\n")
	}
	r := conn.PgConn().Exec(ctx, sql.String())
	for r.NextResult() {
		if tag, _ := r.ResultReader().Close(); tag.String() == "COMMIT" {
			n++
		}
	}
	if err = r.Close(); err != nil && !conn.IsClosed() {
		if _, e := conn.Exec(ctx, "ROLLBACK"); e != nil {
			return n, e
		}
	}
	return n, err
}

// one creates an object by itself, and records it if it cannot be created.
func (c *creator) one(ctx context.Context, conn *pgx.Conn, x creation) error {
	const tries = 3 // to get out of a deadlock
	var err error
	for try := 1; ; try++ {
		err = c.each(ctx, func() error {
			_, err := query(ctx, conn, "", [][]creation{{x}})
			return err
		})
		if !isDeadlock(err) || try == tries {
			break
		}
	}
	var pg *pgconn.PgError
	switch {
	case err == nil:
		c.count([]creation{x})
		return nil
	case waiting.IsLockTimeout(err) || isDeadlock(err):
		return c.locked(&x.Object, err)
	case errors.As(err, &pg) && (x.Type == "FK CONSTRAINT" && pg.Code == "42710" || hold.Is(x.Type) && isGone(pg)):
		// Somebody created the key by hand, or dropped the trigger or rule.
		return c.Target.Explain(progress.SetObject(ctx, conn, x.ID, "done"))
	case !objects.Refused(err) || ctx.Err() != nil:
		return c.Target.Explain(err)
	}
	x.Error = err.Error()
	c.mu.Lock()
	c.failed = append(c.failed, x.Object)
	c.mu.Unlock()
	return c.Target.Explain(progress.Fail(ctx, conn, x.ID, err))
}

// count counts the objects of a transaction that has committed.
func (c *creator) count(some []creation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range some {
		if x.done != "" {
			c.created++
		}
	}
}

func isDeadlock(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "40P01"
}

// isGone reports whether the disabled trigger or rule has been dropped since.
func isGone(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "42704", "42P01", "3F000": // the trigger or rule, its table, or the schema
		return true
	}
	return false
}

// creations returns the pieces of work that an object takes.
func creations(o *progress.Object, parts map[int64][]string) []creation {
	table := o.Schema + "\x00" + o.Table
	x := creation{Object: *o, sql: o.SQL, done: progress.DoneSQL(o.ID), own: table, lane: table}
	head, constraint, ok := strings.Cut(o.SQL, addConstraint)
	if o.Type != "FK CONSTRAINT" || !ok {
		return []creation{x}
	}
	x.alone = true
	schema, referenced := objects.References(constraint)
	x.lane = schema + "\x00" + referenced
	if !objects.Unchecked(o.SQL) {
		constraint = strings.TrimRight(constraint, "; \n") + " NOT VALID;"
	}
	constraint = addConstraint + constraint
	leaves, whole := parts[o.ID]
	if !whole || objects.Unchecked(o.SQL) {
		x.sql = head + constraint
		x.done = progress.MadeSQL(o.ID, constraintName(*o))
		return []creation{x}
	}
	x.sql, x.done = "", progress.RunningSQL(o.ID)
	list := make([]creation, len(leaves), len(leaves)+1)
	for i, leaf := range leaves {
		list[i] = creation{Object: *o, sql: "ALTER TABLE ONLY " + leaf + constraint, own: x.own, lane: x.lane, alone: true}
	}
	return append(list, x)
}

// partitions returns, by foreign key of a partitioned table, the partitions that hold rows and have
// no key of that name yet.
func (c *creator) partitions(ctx context.Context, list []progress.Object) (map[int64][]string, error) {
	var ids []int64
	var schemas, tables, names []string
	for i := range list {
		if o := &list[i]; o.Type == "FK CONSTRAINT" {
			ids, names = append(ids, o.ID), append(names, constraintName(*o))
			schemas, tables = append(schemas, o.Schema), append(tables, o.Table)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := c.OnTarget.Query(ctx, `WITH RECURSIVE d(id, name, oid) AS (
			SELECT v.id, v.name, c.oid FROM unnest($1::pg_catalog.int8[], $2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[]) v(id, schema, tab, name)
				JOIN pg_catalog.pg_namespace n ON n.nspname = v.schema JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.tab AND c.relkind = 'p'
			UNION ALL SELECT d.id, d.name, i.inhrelid FROM d JOIN pg_catalog.pg_inherits i ON i.inhparent = d.oid)
		SELECT d.id, CASE WHEN c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = d.oid AND k.contype = 'f' AND k.conname = d.name)
			THEN d.oid::pg_catalog.regclass::pg_catalog.text ELSE '' END FROM d JOIN pg_catalog.pg_class c ON c.oid = d.oid ORDER BY 1, 2`, ids, schemas, tables, names)
	if err != nil {
		return nil, err
	}
	parts := make(map[int64][]string)
	var id int64
	var leaf string
	_, err = pgx.ForEachRow(rows, []any{&id, &leaf}, func() error {
		if parts[id] = append(parts[id], leaf); leaf == "" {
			parts[id] = parts[id][:len(parts[id])-1]
		}
		return nil
	})
	return parts, err
}
