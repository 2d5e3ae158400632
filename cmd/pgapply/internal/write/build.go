package write

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// A builder creates the indexes and constraints of tables whose rows are loaded. It builds several
// indexes at the same time, even of one table, then the constraints that use them.
type builder struct {
	l     *Loader
	ctx   context.Context
	tasks chan func(*session) error
	wait  sync.WaitGroup // workers
	open  sync.WaitGroup // tables
	mu    sync.Mutex     // guards ask and the fields below
	ask   *pgx.Conn
	queue []func(*session) error
	busy  int // workers that run a task
	wake  chan struct{}
	done  bool
	mine  map[progress.LoadTable]bool // tables that this process has built or is building
	locks map[progress.LoadTable]progress.Lock

	// tables that still lack rows when everything else is done
	missing []progress.LoadTable
}

func newBuilder(ctx context.Context, l *Loader) (*builder, error) {
	b := &builder{l: l, ctx: ctx, wake: make(chan struct{}, 1),
		tasks: make(chan func(*session) error), mine: make(map[progress.LoadTable]bool), locks: make(map[progress.LoadTable]progress.Lock)}
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

// add queues tasks. It never blocks, so a task can add others.
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
		b.count(1)
		err := task(s)
		b.count(-1)
		if err != nil {
			b.l.fail(err)
			return
		}
	}
}

func (b *builder) count(n int) {
	b.mu.Lock()
	b.busy += n
	b.mu.Unlock()
}

// help lets the server use a parallel worker for each builder that has nothing to do, if that is
// more than its setting allows for an index. It uses fewer for a small table.
func (b *builder) help(s *session) error {
	if s.version < 110000 {
		return nil
	}
	b.mu.Lock()
	idle := max(0, b.l.Jobs-b.busy-len(b.queue))
	b.mu.Unlock()
	return s.exec(b.ctx, fmt.Sprintf("SELECT pg_catalog.set_config(name, greatest(reset_val::int, %d)::pg_catalog.text, false) FROM pg_catalog.pg_settings WHERE name = 'max_parallel_maintenance_workers'", idle))
}

// session opens a session for building. Its sort memory is what the server can afford for all
// builders together.
func (b *builder) session() (*session, error) {
	s, err := newSession(b.ctx, b.l.Server, b.l.Log, b.l.Stream, progress.Loading)
	if err != nil {
		return nil, err
	}
	if err := s.exec(b.ctx, buildMemory(b.l.Jobs)); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// buildMemory returns the statement that sets maintenance_work_mem to a share of
// effective_cache_size, which is what the server expects of its own and the system's caches. The
// value is at most what sorting can use, but at least the current setting.
func buildMemory(jobs int) string {
	return fmt.Sprintf(`SELECT pg_catalog.set_config('maintenance_work_mem', greatest((SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'),
		least(1048576, (SELECT setting::bigint * 8 FROM pg_catalog.pg_settings WHERE name = 'effective_cache_size') / %d))::pg_catalog.text || 'kB', false)`, 8*max(jobs, 1))
}

// use calls ask with the connection for queries.
func (b *builder) use(ask func(*pgx.Conn) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return ask(b.ask)
}

// pending returns the objects of a phase that are not created yet.
func (b *builder) pending(phase progress.Phase, schema, table string) (list []progress.Object, err error) {
	err = b.use(func(c *pgx.Conn) (err error) {
		list, err = progress.Pending(b.ctx, c, b.l.Stream.ID, phase, schema, table)
		return err
	})
	return list, b.l.Server.Explain(err)
}

// lock takes or releases the lock for building a table's objects. It reports whether it got the
// lock.
func (b *builder) lock(t progress.LoadTable, take bool) (ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !take {
		_, err = b.ask.Exec(b.ctx, b.locks[t].Unlock())
		delete(b.locks, t)
		return err == nil, b.l.Server.Explain(err)
	}
	lock, holder, err := progress.Try(b.ctx, progress.AskOf(b.ask), b.l.Stream.ID,
		progress.TableLock(t.Schema, t.Name), func(text string) { b.l.Log.Warn(text) })
	if err != nil || holder != "" {
		return false, b.l.Server.Explain(err)
	}
	b.locks[t] = lock
	return true, nil
}

// small is the number of bytes of rows below which a table counts as small.
const small = 1 << 20

// table creates the objects of a table whose rows are loaded, unless another process does so. One
// session creates all objects of a small table in one transaction: with thousands of small tables,
// the statements between the objects are the main cost.
func (b *builder) table(t progress.LoadTable, isSmall bool) {
	b.mu.Lock()
	mine := b.mine[t]
	b.mine[t] = true
	b.mu.Unlock()
	if mine {
		return
	}
	b.open.Add(1)
	b.add(func(s *session) error {
		ok, err := b.lock(t, true)
		if err != nil {
			return err
		}
		if !ok {
			b.mu.Lock()
			delete(b.mine, t)
			b.mu.Unlock()
			b.open.Done()
			return nil
		}
		list, err := b.pending(progress.PhaseTable, t.Schema, t.Name)
		if err != nil {
			return err
		}
		if isSmall {
			if done, err := b.whole(s, t, list); done || err != nil {
				return err
			}
		}
		return b.build(s, t, list)
	})
}

// whole creates all objects of a table in one transaction. If the server refuses one of them, whole
// rolls back and returns false.
func (b *builder) whole(s *session, t progress.LoadTable, list []progress.Object) (done bool, err error) {
	var sql, ids strings.Builder
	sql.WriteString("BEGIN;\n")
	for i := range list {
		sql.WriteString(s.alone(list[i].Rest()) + "\n;")
		fmt.Fprintf(&ids, ", %d", list[i].ID)
	}
	fmt.Fprintf(&sql, "UPDATE pgsluice.deferred SET %s WHERE id IN (0%s);%s;%s; COMMIT", isDone, ids.String(),
		analyze(t), b.set(t, isLoaded))
	if err := s.conn.Exec(b.ctx, sql.String()); err == nil {
		defer b.open.Done()
		_, err = b.lock(t, false)
		return true, err
	} else if !b.refused(err) {
		return false, b.l.Server.Explain(err)
	}
	return false, s.exec(b.ctx, "ROLLBACK")
}

// refused reports whether an error is the server's answer to a statement.
func (b *builder) refused(err error) bool { return b.ctx.Err() == nil && objects.Refused(err) }

func analyze(t progress.LoadTable) string {
	return "ANALYZE " + plan.QuoteIdent(t.Schema) + "." + plan.QuoteIdent(t.Name)
}

func (b *builder) build(s *session, t progress.LoadTable, list []progress.Object) error {
	if err := s.exec(b.ctx, b.set(t, "status = 'indexing'")); err != nil {
		return err
	}
	var first, then []progress.Object
	for _, o := range list {
		if o.Index != "" || o.Type == "INDEX" && o.Attach == "" {
			first = append(first, o)
		} else {
			then = append(then, o)
		}
	}
	left := len(first)
	if left == 0 {
		return b.rest(s, t, nil, then)
	}
	var mu sync.Mutex
	var tasks []func(*session) error
	for i := range first {
		o := &first[i]
		tasks = append(tasks, func(s *session) error {
			sql := o.SQL
			if o.Index != "" {
				sql = o.Index
			}
			if err := b.help(s); err != nil {
				return err
			}
			if err := b.create(s, o, sql, o.Index != ""); err != nil {
				return err
			}
			mu.Lock()
			left--
			all := left == 0
			mu.Unlock()
			if all {
				return b.rest(s, t, first, then)
			}
			return nil
		})
	}
	b.add(tasks...)
	return nil
}

// rest creates the objects that need the indexes, and those that change the table itself. Several
// sessions cannot change a table at the same time.
func (b *builder) rest(s *session, t progress.LoadTable, first, then []progress.Object) error {
	defer b.open.Done()
	for i := range first {
		if o := &first[i]; o.Index != "" && o.Error == "" {
			if err := b.create(s, o, o.Attach, false); err != nil {
				return err
			}
		}
	}
	for i := range then {
		o := &then[i]
		if err := b.create(s, o, o.Rest(), false); err != nil {
			return err
		}
	}
	if err := s.conn.Exec(b.ctx, analyze(t)); err != nil {
		if !b.refused(err) {
			return b.l.Server.Explain(err)
		}
		// A statistics expression may fail for some rows, as it does on the source.
		b.l.Log.Warn(fmt.Sprintf("could not analyze table %s.%s: %v", t.Schema, t.Name, err))
	}
	if err := s.exec(b.ctx, b.set(t, isLoaded)); err != nil {
		return err
	}
	_, err := b.lock(t, false)
	return err
}

// set returns the statement that sets columns of a table's row in pgsluice.tables.
func (b *builder) set(t progress.LoadTable, columns string) string {
	return fmt.Sprintf("UPDATE pgsluice.tables SET %s WHERE stream_id = %d AND schema_name = %s AND table_name = %s",
		columns, b.l.Stream.ID, progress.Literal(t.Schema), progress.Literal(t.Name))
}

// isLoaded marks a complete table. isDone marks an object that was created.
const (
	isLoaded = "status = 'loaded', loaded_at = clock_timestamp()"
	isDone   = "state = 'done', error = NULL, code = NULL, because = NULL, finished_at = clock_timestamp()"
)

// create creates an object and records it in the same transaction. If half is true, sql creates
// only the index, and the constraint or whatever else follows is still missing. The object is then
// not done, but a later run must find the index. If the server refuses an object, create records
// the reason and the load continues.
func (b *builder) create(s *session, o *progress.Object, sql string, half bool) error {
	state := isDone
	if half {
		state = "index_sql = NULL, state = 'running', started_at = clock_timestamp()"
	}
	err := objects.Execute(b.ctx, s, s.alone(sql), fmt.Sprintf("UPDATE pgsluice.deferred SET %s WHERE id = %d", state, o.ID))
	if err == nil {
		o.Error = "" // clears the error of an earlier run
		return nil
	}
	if !b.refused(err) {
		return b.l.Server.Explain(err)
	}
	if e := s.exec(b.ctx, "ROLLBACK"); e != nil {
		return e
	}
	if b.l.Reload && isThere(o, err) { // it was created by hand
		o.Error = ""
		return s.exec(b.ctx, fmt.Sprintf("UPDATE pgsluice.deferred SET %s WHERE id = %d", isDone, o.ID))
	}
	left, e := b.l.settle(s, o, err)
	if o.Error = ""; len(left) > 0 {
		o.Error = left[0].Error()
	}
	return e
}

// finish waits for all tables, including those that other processes build, then creates the objects
// that belong to no table. It reports whether the load is complete: other processes may still have
// to load rows.
func (b *builder) finish() (complete bool, err error) {
	const again = 200 * time.Millisecond
	for {
		if err := b.waitTables(); err != nil {
			return false, err
		}
		b.mu.Lock()
		copied, missing, err := progress.Unfinished(b.ctx, b.ask, b.l.Stream.ID)
		b.mu.Unlock()
		if err != nil {
			return false, b.l.Server.Explain(err)
		}
		copied = b.l.whole(copied, missing)
		if len(copied) == 0 && len(missing) > 0 {
			b.missing = missing
			return false, nil
		}
		if len(copied) == 0 {
			// Look for tables whose objects arrived after their rows.
			b.mu.Lock()
			copied, err = progress.Unbuilt(b.ctx, b.ask, b.l.Stream.ID)
			b.mu.Unlock()
			if err != nil {
				return false, b.l.Server.Explain(err)
			}
		}
		if len(copied) == 0 {
			break
		}
		// The process that copied a table's last part is building the table, or was killed.
		for _, t := range copied {
			b.mu.Lock()
			delete(b.mine, t)
			b.mu.Unlock()
			b.table(t, false)
		}
		select {
		case <-time.After(again):
		case <-b.ctx.Done():
			return false, context.Cause(b.ctx)
		}
	}
	result := make(chan error, 1)
	b.add(func(s *session) error {
		err := b.last(s)
		result <- err
		return err
	})
	select {
	case err = <-result:
	case <-b.ctx.Done():
		return false, context.Cause(b.ctx)
	}
	if err != nil {
		return false, err
	}
	complete, err = progress.FinishLoad(b.ctx, b.ask, b.l.Stream.ID)
	return complete, b.l.Server.Explain(err)
}

func (b *builder) waitTables() error {
	waited := make(chan struct{})
	go func() {
		b.open.Wait()
		close(waited)
	}()
	select {
	case <-waited:
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}

// last creates the objects that belong to no table, one at a time, in schema order. It takes a lock
// because another process may be about to do the same.
func (b *builder) last(s *session) error {
	lock, err := s.await(b.ctx, b.l.Log, b.l.Stream, progress.SchemaLock, forever)
	if err != nil {
		return err
	}
	phases := []progress.Phase{progress.PhaseLoad}
	if b.l.Constraints {
		phases = append(phases, progress.PhaseCutover, progress.PhaseFinish)
	}
	for _, phase := range phases {
		list, err := b.pending(phase, "", "")
		if err != nil {
			return err
		}
		for i := range list {
			if list[i].Type == format.Warning { // there is nothing to create
				continue
			}
			if err := b.create(s, &list[i], list[i].SQL, false); err != nil {
				return err
			}
		}
	}
	if err := b.l.retry(func(o *progress.Object) bool { return objects.NotData(o) || b.l.before[o.ID] }); err != nil {
		return err
	}
	return s.exec(b.ctx, lock.Unlock())
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
