package target

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// A builder creates what belongs to tables whose rows are there: several indexes at the same time, also of one table, then the constraints
// that rest on them.
type builder struct {
	l     *Loader
	ctx   context.Context
	tasks chan func(*session) error
	wait  sync.WaitGroup // workers
	open  sync.WaitGroup // tables
	mu    sync.Mutex     // guards ask and what follows
	ask   *pgx.Conn
	queue []func(*session) error
	wake  chan struct{}
	done  bool
	count int
}

func newBuilder(ctx context.Context, l *Loader) (*builder, error) {
	b := &builder{l: l, ctx: ctx, wake: make(chan struct{}, 1), tasks: make(chan func(*session) error)}
	var err error
	if b.ask, err = l.Server.Connect(ctx); err != nil {
		return nil, err
	}
	go b.feed()
	for range max(l.Jobs, 1) {
		b.wait.Add(1)
		go b.work()
	}
	return b, nil
}

// add queues a task. It never waits, so that a task may add others.
func (b *builder) add(tasks ...func(*session) error) {
	b.mu.Lock()
	b.queue = append(b.queue, tasks...)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// feed hands tasks to the workers until close.
func (b *builder) feed() {
	defer close(b.tasks)
	for {
		b.mu.Lock()
		var task func(*session) error
		if len(b.queue) > 0 {
			task, b.queue = b.queue[0], b.queue[1:]
		}
		done := b.done
		b.mu.Unlock()
		switch {
		case task != nil:
			select {
			case b.tasks <- task:
			case <-b.ctx.Done():
				return
			}
		case done:
			return
		default:
			select {
			case <-b.wake:
			case <-b.ctx.Done():
				return
			}
		}
	}
}

func (b *builder) work() {
	defer b.wait.Done()
	var s *session
	defer func() { s.close() }()
	for task := range b.tasks {
		if s == nil {
			var err error
			if s, err = b.session(); err != nil {
				b.l.fail(err)
				return
			}
		}
		if err := task(s); err != nil {
			b.l.fail(err)
			return
		}
	}
}

// session opens a session for building: with memory for sorting that the server can afford for all builders together.
func (b *builder) session() (*session, error) {
	s, err := newSession(b.ctx, b.l.Server, nil, b.l.Stream, progress.Loading)
	if err != nil {
		return nil, err
	}
	if err := s.exec(b.ctx, buildMemory(b.l.Jobs)); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// buildMemory returns the statement that sets maintenance_work_mem: a share of what the server counts on for its own and the system's caches, but
// not less than is set, and not more than sorting makes use of.
func buildMemory(jobs int) string {
	return fmt.Sprintf(`SELECT set_config('maintenance_work_mem', greatest((SELECT setting::bigint FROM pg_settings WHERE name = 'maintenance_work_mem'),
		least(1048576, (SELECT setting::bigint * 8 FROM pg_settings WHERE name = 'effective_cache_size') / %d))::text || 'kB', false)`, 8*max(jobs, 1))
}

// pending asks for objects that are to be created.
func (b *builder) pending(phase progress.Phase, schema, table string) ([]progress.Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, err := progress.Pending(b.ctx, b.ask, b.l.Stream.ID, phase, schema, table)
	return list, b.l.Server.Explain(err)
}

// table has everything created that belongs to a table, which has its rows.
func (b *builder) table(t *loadTable) {
	b.open.Add(1)
	b.add(func(s *session) error {
		// Objects are recorded under the names that the source has.
		list, err := b.pending(progress.PhaseTable, t.rel.Schema, t.rel.Name)
		if err != nil {
			return err
		}
		if err := b.status(s, t, "indexing", ""); err != nil {
			return err
		}
		var first, then []progress.Object
		for _, o := range list {
			if o.Type == "INDEX" || o.Index != "" {
				first = append(first, o)
			} else {
				then = append(then, o)
			}
		}
		left := len(first)
		var mu sync.Mutex
		last := func(s *session) error { return b.rest(s, t, first, then) }
		if left == 0 {
			return last(s)
		}
		var tasks []func(*session) error
		for _, o := range first {
			tasks = append(tasks, func(s *session) error {
				sql := o.SQL
				if o.Index != "" {
					sql = o.Index
				}
				if err := b.create(s, &o, sql, o.Index != ""); err != nil {
					return err
				}
				mu.Lock()
				left--
				all := left == 0
				mu.Unlock()
				if all {
					return last(s)
				}
				return nil
			})
		}
		b.add(tasks...)
		return nil
	})
}

// rest creates what needs the indexes, and what changes the table itself and therefore cannot be done by several sessions.
func (b *builder) rest(s *session, t *loadTable, first, then []progress.Object) error {
	defer b.open.Done()
	for _, o := range first {
		if o.Index != "" && o.Error == "" {
			if err := b.create(s, &o, o.Attach, false); err != nil {
				return err
			}
		}
	}
	for _, o := range then {
		sql := o.SQL
		if o.Attach != "" { // its index was made by an earlier run
			sql = o.Attach
		}
		if err := b.create(s, &o, sql, false); err != nil {
			return err
		}
	}
	if err := s.exec(b.ctx, "ANALYZE "+t.qualified()); err != nil {
		return err
	}
	return b.status(s, t, "loaded", "loaded_at = clock_timestamp(), ")
}

func (b *builder) status(s *session, t *loadTable, status, more string) error {
	return s.exec(b.ctx, fmt.Sprintf("UPDATE pgsluice.tables SET %sstatus = '%s' WHERE stream_id = %d AND schema_name = %s AND table_name = %s",
		more, status, b.l.Stream.ID, literal(t.schema), literal(t.name)))
}

// create creates an object and records it in the same transaction. If only an index was made that a constraint is to rest on, the object is
// not yet done, but a later run must find the index. An object that the server refuses is recorded with the reason; the load goes on.
func (b *builder) create(s *session, o *progress.Object, sql string, half bool) error {
	state := "state = 'done', error = NULL, finished_at = clock_timestamp()"
	if half {
		state = "index_sql = NULL, state = 'running', started_at = clock_timestamp()"
	}
	err := s.conn.Exec(b.ctx, fmt.Sprintf("BEGIN;\n%s\n;UPDATE pgsluice.deferred SET %s WHERE id = %d; COMMIT", sql, state, o.ID))
	if err == nil {
		b.mu.Lock()
		b.count++
		b.mu.Unlock()
		return nil
	}
	var pg *pgconn.PgError
	if b.ctx.Err() != nil || pgdial.Lost(err) || !errors.As(err, &pg) {
		return b.l.Server.Explain(err)
	}
	o.Error = err.Error()
	if err := s.exec(b.ctx, "ROLLBACK"); err != nil {
		return err
	}
	return s.exec(b.ctx, fmt.Sprintf("UPDATE pgsluice.deferred SET state = 'failed', error = %s, finished_at = clock_timestamp() WHERE id = %d", literal(o.Error), o.ID))
}

// finish waits for all tables, then creates what belongs to none, one object after the other.
func (b *builder) finish() error {
	waited := make(chan struct{})
	go func() {
		b.open.Wait()
		close(waited)
	}()
	select {
	case <-waited:
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
	list, err := b.pending(progress.PhaseLoad, "", "")
	if err != nil || len(list) == 0 {
		return err
	}
	result := make(chan error, 1)
	b.add(func(s *session) error {
		for i := range list {
			if err := b.create(s, &list[i], list[i].SQL, false); err != nil {
				return err
			}
		}
		result <- nil
		return nil
	})
	select {
	case err := <-result:
		return err
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}

func (b *builder) close() {
	b.mu.Lock()
	b.done = true
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	b.wait.Wait()
	_ = b.ask.Close(context.WithoutCancel(b.ctx))
}

// Failures describes the objects that could not be created, and tells whether any of them failed for another reason than that the target's
// role may not, or the target cannot, have it.
func Failures(list []progress.Object) (text string, serious bool) {
	var lines []string
	for _, o := range list {
		lines = append(lines, fmt.Sprintf("%v: %s", &o, o.Error))
		serious = serious || !excusable(o.Error)
	}
	return strings.Join(lines, "\n"), serious
}

// excusable reports whether an error (with its SQLSTATE in the text) is one of privileges, or of something that the target does not have.
func excusable(text string) bool {
	for _, code := range []string{"42501", "0A000", "58P01", "42704"} {
		if strings.Contains(text, "SQLSTATE "+code) {
			return true
		}
	}
	return false
}
