package write

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/rename"
	"github.com/pgsluice/pgsluice/format"
)

// phaseOf returns the phase that creates a post-data object, without regard to its dependencies.
func phaseOf(o *progress.Object, tables map[[2]string]bool) progress.Phase {
	switch o.Type {
	case "FK CONSTRAINT", "TRIGGER":
		return progress.PhaseCutover
	case "RULE":
		// A rule would change what is applied. A rule named _RETURN makes a view, and other objects
		// may depend on the view.
		if !strings.HasSuffix(o.Name, " _RETURN") {
			return progress.PhaseCutover
		}
	case "EVENT TRIGGER":
		return progress.PhaseFinish // it may forbid the remaining steps
	case "INDEX", "CONSTRAINT", "CHECK CONSTRAINT", "STATISTICS":
		if o.Table != "" && tables[[2]string{o.Schema, o.Table}] {
			return progress.PhaseTable
		}
	}
	return progress.PhaseLoad
}

// phaseOrder is the order of the phases that post-data objects are created in.
var phaseOrder = map[progress.Phase]int{progress.PhaseTable: 1, progress.PhaseLoad: 2, progress.PhaseCutover: 3, progress.PhaseFinish: 4}

// phases sets the phase of each object; the objects come in order. An object is not created before
// its dependencies. An object that depends on an object of a table comes after the load, because it
// would not be found with that table.
func phases(list []deferredObject, tables map[[2]string]bool) {
	of := make(map[uint64]progress.Phase, len(list))
	for i := range list {
		o := &list[i]
		o.Phase = phaseOf(&o.Object, tables)
		for _, id := range o.after {
			if p := of[id]; phaseOrder[p] > phaseOrder[o.Phase] {
				o.Phase = p
			}
		}
		of[o.id] = o.Phase
	}
}

// schemaWork is what the Loader knows about objects.
type schemaWork struct {
	objects map[progress.ObjectKey]progress.Recorded
	// an object's id in the stream → its id in pgsluice.deferred
	rowOf   map[uint64]int64
	before  map[int64]bool      // objects that an earlier run could not create
	whyLost map[[2]string]error // why tables could not be created
	// objects that could not be created, and without which rows are lost
	lost        []int64
	held        []*format.DDL     // until all have arrived
	schema      []progress.Object // not yet executed
	later       []deferredObject  // not yet recorded
	tablespaces map[string]bool   // whether the target has them

	schemaLocked bool
	schemaLock   progress.Lock

	idMu sync.Mutex
	ids  []int64 // reserved for objects
}

// A deferredObject is a post-data object of the stream.
type deferredObject struct {
	progress.Object
	id       uint64
	after    []uint64
	recorded bool // an earlier load has recorded it on the target
}

// schemaBatch is how many pre-data objects one transaction creates.
const schemaBatch = 200

// DDL takes an object of the schema. With --rename, it keeps the object until all objects have
// arrived: if the names in one of them cannot be changed, nothing must be written.
func (l *Loader) DDL(d *format.DDL) error {
	if err := writable(d); err != nil {
		return err
	}
	if d.Attach == "" {
		d.Index = "" // no second step follows: SQL creates all of it
	}
	if len(l.Mapper.Rename) > 0 {
		c := *d
		c.After = append([]uint64(nil), d.After...)
		l.held = append(l.held, &c)
		return nil
	}
	return l.ddl(d)
}

// rename changes the names in the objects that DDL has kept, and takes the objects.
func (l *Loader) rename() error {
	held, rules := l.held, rename.Rules(l.Mapper.Rename)
	l.held = nil
	var cannot []string
	for _, d := range held {
		name := d.Type + " " + d.Name
		for _, sql := range []*string{&d.SQL, &d.Index, &d.Attach} {
			s, err := rules.SQL(d.Type, *sql)
			if err != nil {
				cannot = append(cannot, text.Sprintf("%s: %v", name, err))
				break
			}
			*sql = s
		}
		if d.Type == "SCHEMA" {
			d.Name = rules.Schema(d.Name)
		}
		d.Schema, d.Table = rules.Table(d.Schema, d.Table)
	}
	if len(cannot) > 0 {
		return fault.New(fault.Config,
			"--rename cannot be applied to the definitions of %s; nothing was written",
			count.Of(len(cannot), "object")).
			WithDetail("%s", strings.Join(cannot, "\n")).
			WithHint("Create the schema on the target by hand, under the new names, and load with pgextract --data-only.")
	}
	for _, d := range held {
		if err := l.ddl(d); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loader) ddl(d *format.DDL) (err error) {
	if !l.schemaLocked {
		if err := l.lockSchema(); err != nil {
			return err
		}
	}
	for _, sql := range []*string{&d.SQL, &d.Index} {
		if *sql, err = l.placed(*sql); err != nil {
			return err
		}
	}
	o := progress.Object{Type: d.Type, Schema: d.Schema, Table: d.Table, Name: d.Name, SQL: d.SQL,
		Index: d.Index, Attach: d.Attach, Phase: progress.PhaseSchema}
	known, recorded := l.objects[o.Key()]
	if o.ID = known.ID; !recorded {
		if o.ID, err = l.newID(); err != nil {
			return err
		}
	}
	if d.ID != 0 {
		l.rowOf[d.ID] = o.ID
	}
	for _, id := range d.After {
		if row := l.rowOf[id]; row != 0 {
			o.Needs = append(o.Needs, row)
		}
	}
	if d.Type == format.Warning {
		return l.warning(o, recorded)
	}
	if d.Section != format.PreData {
		l.later = append(l.later, deferredObject{Object: o, id: d.ID, after: append([]uint64(nil), d.After...), recorded: recorded})
		return nil
	}
	if recorded {
		return nil
	}
	l.schema = append(l.schema, o)
	if len(l.schema) >= schemaBatch {
		return l.flushSchema()
	}
	return nil
}

// warning records something of the source that does not arrive on the target. The record is an
// object that cannot be created.
func (l *Loader) warning(o progress.Object, recorded bool) error {
	if recorded {
		return nil
	}
	l.Log.Warn(text.Escape(o.Name))
	o.Phase, o.SQL, o.Index, o.Attach = progress.PhaseLoad, "", "", ""
	return l.guard.exec(l.ctx, "BEGIN; "+progress.AddObjectsSQL(l.Stream.ID, []progress.Object{o}, "done")+"; "+
		progress.FailSQL(o.ID, &pgconn.PgError{Severity: "WARNING", Code: warned, Message: o.Name})+"; COMMIT")
}

// warned is the SQLSTATE of a warning.
const warned = "01000"

// inTablespace matches the statements of an object that is not in the database's default
// tablespace.
var inTablespace = regexp.MustCompile(`(?s)^SET default_tablespace = "((?:[^"]|"")*)";\n(.*)\nRESET default_tablespace;`)

// placed removes a tablespace that the target does not have from an object's statements. Many
// services let no user create a tablespace.
func (l *Loader) placed(sql string) (string, error) {
	m := inTablespace.FindStringSubmatch(sql)
	if m == nil {
		return sql, nil
	}
	name := strings.ReplaceAll(m[1], `""`, `"`)
	there, known := l.tablespaces[name]
	if !known {
		if err := l.Control.QueryRow(l.ctx,
			"SELECT EXISTS (SELECT FROM pg_catalog.pg_tablespace WHERE spcname = $1)", name).
			Scan(&there); err != nil {
			return "", l.Server.Explain(err)
		}
		l.tablespaces[name] = there
		if !there {
			l.Log.Warn(fmt.Sprintf("the target has no tablespace %q; its objects are created in the database's default tablespace", name))
		}
	}
	if there {
		return sql, nil
	}
	return m[2] + sql[len(m[0]):], nil
}

// lockSchema makes sure that only one of several loads of a snapshot creates the schema. The other
// loads wait, and then find the schema created.
func (l *Loader) lockSchema() (err error) {
	if l.schemaLock, err = l.guard.await(l.ctx, l.Log, l.Stream, progress.SchemaLock, forever); err != nil {
		return err
	}
	l.schemaLocked = true
	if err := l.retry(func(o *progress.Object) bool { return o.Phase == progress.PhaseSchema }); err != nil {
		return err
	}
	l.objects, err = progress.Objects(l.ctx, l.Control, l.Stream.ID)
	return l.Server.Explain(err)
}

// retry tries again to create the objects that failed before. The first call notes the objects that
// an earlier run has left.
func (l *Loader) retry(want func(*progress.Object) bool) error {
	var failed []progress.Object
	err := l.builder.use(func(c *pgx.Conn) (err error) {
		failed, err = progress.Failed(l.ctx, c, l.Stream.ID)
		return err
	})
	if err != nil {
		return l.Server.Explain(err)
	}
	if l.before == nil {
		l.before = make(map[int64]bool)
		for _, o := range failed {
			l.before[o.ID] = true
		}
	}
	if len(failed) == 0 {
		return nil
	}
	n, err := objects.Retry(l.ctx, l.Server, l.Stream, want, func(do func() error) error { return l.Waits.Retry(l.ctx, 0, do) })
	if n > 0 {
		l.Log.Info(count.Of(n, "object") + " that could not be created before exist on the target now")
	}
	return err
}

// flushSchema creates pre-data objects, all in one transaction if possible. If the server refuses
// one, flushSchema tries smaller transactions, down to one object each.
func (l *Loader) flushSchema() error {
	list := l.schema
	l.schema = nil
	if len(list) == 0 {
		return nil
	}
	return l.createAll(list)
}

func (l *Loader) createAll(list []progress.Object) error {
	var sql strings.Builder
	for _, o := range list {
		sql.WriteString(o.SQL + "\n;")
	}
	refused := objects.Execute(l.ctx, l.guard, sql.String(), progress.AddObjectsSQL(l.Stream.ID, list, "done"))
	if refused == nil {
		return nil
	}
	if !objects.Refused(refused) || l.ctx.Err() != nil {
		return l.Server.Explain(refused)
	}
	if err := l.guard.exec(l.ctx, "ROLLBACK"); err != nil {
		return err
	}
	if n := len(list); n > 1 {
		if err := l.createAll(list[:n/2]); err != nil {
			return err
		}
		return l.createAll(list[n/2:])
	}
	return l.refusedObject(&list[0], refused)
}

// needed lists the kinds of objects without which rows are lost.
var needed = map[string]bool{"SCHEMA": true, "TYPE": true, "SHELL TYPE": true, "DOMAIN": true, "TABLE": true,
	"TABLE ATTACH": true, "SEQUENCE": true}

// exists lists the SQLSTATEs of an object that already exists.
var exists = map[string]bool{"42P07": true, "42710": true, "42P06": true, "42723": true, "42P16": true}

// isThere reports whether the server has refused to create an object because it already exists.
func isThere(o *progress.Object, err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (exists[pg.Code] ||
		o.Type == "TABLE ATTACH" && pg.Code == "42809" || // it already is a partition
		o.Attach != "" && pg.Code == "55000") // the index already belongs to a constraint
}

// refusedObject decides how the load continues when an object cannot be created. It records the
// reason with the object.
func (l *Loader) refusedObject(o *progress.Object, refused error) error {
	var pg *pgconn.PgError
	if !errors.As(refused, &pg) {
		return l.Server.Explain(refused)
	}
	there := isThere(o, refused)
	if there && needed[o.Type] && !l.Reload && !l.made(o) {
		return fault.New(fault.Failed, "could not create %v on the target: %w", o, refused).
			WithHint("The target is not empty. Use an empty database, or create the whole schema by hand and load with pgextract --data-only. %s",
				identity.Empty(l.ctx, l.Control))
	}
	if there && needed[o.Type] && !l.Reload {
		// An earlier run of this load has created it.
		l.Log.Warn(fmt.Sprintf("%v has changed on the source since it was created on the target; the target's is left unchanged", o))
	}
	if err := l.guard.exec(l.ctx, progress.AddObjectsSQL(l.Stream.ID, []progress.Object{*o}, "done")); err != nil {
		return err
	}
	if there && (needed[o.Type] || l.Reload) {
		return nil // keep the existing object; fits checks its columns before rows are copied
	}
	left, err := l.settle(l.guard, o, refused)
	if err == nil && len(left) > 0 && needed[o.Type] {
		l.lost = append(l.lost, o.ID)
		l.mu.Lock()
		l.whyLost[[2]string{o.Schema, o.Table}] = refused
		l.mu.Unlock()
		l.Log.Warn(fmt.Sprintf("could not create %v on the target; the load continues without it: %v", o, refused))
	}
	return err
}

// settle does what can be done about an object that the server has refused.
func (l *Loader) settle(s *session, o *progress.Object, refused error) ([]error, error) {
	m := &objects.Maker{Session: s, Stream: l.Stream.ID, Citus: l.Stream.Citus, NewID: l.newID}
	left, err := m.Settle(l.ctx, o, refused)
	return left, l.Server.Explain(err)
}

// made reports whether this load has created an object of this kind and name, with any definition.
func (l *Loader) made(o *progress.Object) bool {
	for k, x := range l.objects {
		if x.Done && k[0] == o.Type && k[1] == o.Schema && k[2] == o.Name {
			return true
		}
	}
	return false
}

// flush executes and records the collected objects and tables, because rows come next.
func (l *Loader) flush() error {
	if err := l.rename(); err != nil {
		return err
	}
	if err := l.flushSchema(); err != nil {
		return err
	}
	if len(l.later) > 0 {
		tables := make(map[[2]string]bool)
		for _, t := range l.tables {
			tables[[2]string{t.schema, t.name}] = true
		}
		phases(l.later, tables)
		var list []progress.Object
		for _, o := range l.later {
			if !o.recorded {
				list = append(list, o.Object)
			}
		}
		if err := progress.AddObjects(l.ctx, l.Control, l.Stream.ID, list, "deferred"); err != nil {
			return l.Server.Explain(err)
		}
		l.later = nil
	}
	if len(l.queued) > 0 {
		if err := progress.QueueTables(l.ctx, l.Control, l.Stream.ID, l.queued); err != nil {
			return l.Server.Explain(err)
		}
		l.queued = nil
	}
	if err := l.inspect(); err != nil {
		return err
	}
	if err := l.hopeless(); err != nil {
		return err
	}
	if l.schemaLocked {
		if err := l.guard.exec(l.ctx, l.schemaLock.Unlock()); err != nil {
			return err
		}
		l.schemaLocked = false
	}
	return nil
}

// Serious reports whether any object failed for a serious reason. Missing privileges, and something
// that the target cannot have, are not serious.
func Serious(list []progress.Object) bool {
	for _, o := range list {
		if o.Because == 0 && !excusable[o.Code] {
			return true
		}
	}
	return false
}

// excusable lists the SQLSTATEs of missing privileges, and of something that the target does not
// have or cannot reach.
var excusable = map[string]bool{"42501": true, "0A000": true, "58P01": true, "42704": true, "22023": true,
	"08001": true, "HV00N": true, warned: true, "01006": true, "01007": true}

// newID returns an id for an object that will be recorded.
func (l *Loader) newID() (int64, error) {
	l.idMu.Lock()
	defer l.idMu.Unlock()
	if len(l.ids) == 0 {
		err := l.builder.use(func(c *pgx.Conn) (err error) {
			l.ids, err = progress.NewIDs(l.ctx, c, schemaBatch)
			return err
		})
		if err != nil {
			return 0, l.Server.Explain(err)
		}
	}
	id := l.ids[0]
	l.ids = l.ids[1:]
	return id, nil
}
