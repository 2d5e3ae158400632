package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A finding is one thing that Check has looked at.
type finding struct {
	level  string // ok, warning, error
	text   string
	remedy string
}

// A checker collects findings.
type checker struct {
	ctx    context.Context
	m      *Migration
	list   []finding
	s, t   *pgx.Conn
	sv, tv int
	begun  bool // the slot exists: what only its creation needs does not stand in the way
}

func (c *checker) ok(format string, args ...any) {
	c.list = append(c.list, finding{"ok", fmt.Sprintf(format, args...), ""})
}
func (c *checker) warn(remedy, format string, args ...any) {
	c.list = append(c.list, finding{"warning", fmt.Sprintf(format, args...), remedy})
}

// need is fail, or warn if the migration has begun.
func (c *checker) need(remedy, format string, args ...any) {
	if c.begun {
		c.warn(remedy, format, args...)
	} else {
		c.fail(remedy, format, args...)
	}
}

func (c *checker) fail(remedy, format string, args ...any) {
	c.list = append(c.list, finding{"error", fmt.Sprintf(format, args...), remedy})
}

// Check looks at the source, the target, and the pair, before anything is begun. It changes nothing. It writes a line for each finding, and fails if
// there is one that stands in the way.
func (m *Migration) Check(ctx context.Context) error {
	c := &checker{ctx: ctx, m: m}
	var err error
	if c.s, err = m.source(ctx); err != nil {
		return err
	}
	defer c.s.Close(ctx)
	if c.t, err = m.connect(ctx, m.Target); err != nil {
		return err
	}
	defer c.t.Close(ctx)
	c.sv, c.tv = pgdial.Version(c.s.PgConn()), pgdial.Version(c.t.PgConn())
	for _, look := range []func() error{c.apart, c.versions, c.slotState, c.wal, c.sourceRole, c.tables, c.transactions} {
		if err := look(); err != nil {
			return m.Source.Explain(err)
		}
	}
	for _, look := range []func() error{c.targetRole, c.encoding, c.collation, c.extensions, c.roles, c.empty} {
		if err := look(); err != nil {
			return m.Target.Explain(err)
		}
	}
	for _, side := range []string{m.Source.Side, m.Target.Side} {
		text.Fprintf(m.Out, "%s\n", m.ends[side])
	}
	bad := 0
	for _, f := range c.list {
		text.Fprintf(m.Out, "%s\t%s\n", f.level, f.text)
		if f.remedy != "" {
			text.Fprintf(m.Out, "\t%s\n", f.remedy)
		}
		if f.level == "error" {
			bad++
		}
	}
	if bad > 0 {
		return fault.New(fault.Config, "%s not met", count.Of(bad, "condition")).WithHint("Each line that begins with \"error\" is followed by what to do.")
	}
	return nil
}

// ask returns a query's single value as text, "" for NULL.
func (c *checker) ask(conn *pgx.Conn, sql string, args ...any) (string, error) {
	var s *string
	err := conn.QueryRow(c.ctx, "SELECT ("+sql+")::pg_catalog.text", args...).Scan(&s)
	if err != nil || s == nil {
		return "", err
	}
	return *s, nil
}

// apart looks whether source and target are two databases.
func (c *checker) apart() error {
	same, err := identity.Same(c.ctx, c.s, c.t)
	if err != nil {
		return err
	}
	if same {
		c.fail("Look at --source and --target, or PGSLUICE_SOURCE and PGSLUICE_TARGET.", "source and target are the same database")
		return nil
	}
	streams, err := progress.Streams(c.ctx, c.s, "")
	if err != nil { // of a schema that is another's
		return nil
	}
	for _, s := range streams {
		if !s.Ended && s.Key.Slot != "" && (c.m.Slot == "" || s.Key.Slot == c.m.Slot) {
			c.fail("Look at --source and PGSLUICE_SOURCE: are the two swapped? If not, use another slot name.", "the source is the target of a migration: %v", s.Key)
		}
	}
	return nil
}

func (c *checker) versions() error {
	s, t := printVersion(c.sv), printVersion(c.tv)
	switch {
	case c.sv < 100000:
		c.fail("Upgrade the source to version 10 or newer.", "the source is PostgreSQL %s; changes can be decoded from version 10 on", s)
	case c.tv < 100000:
		c.fail("Use a target of version 10 or newer.", "the target is PostgreSQL %s", t)
	case c.tv/10000 < c.sv/10000:
		c.warn("Use a target of the source's version or newer: an older one may not know everything that the schema uses.", "the target (%s) is older than the source (%s)", t, s)
	default:
		c.ok("source is PostgreSQL %s, target is PostgreSQL %s", s, t)
	}
	if c.sv < 110000 {
		c.warn("Do not truncate tables while the migration runs.", "the source does not decode TRUNCATE before version 11")
	}
	return nil
}

func printVersion(v int) string {
	if v < 100000 {
		return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
	}
	return fmt.Sprintf("%d.%d", v/10000, v%10000)
}

func (c *checker) wal() error {
	level, err := c.ask(c.s, "SELECT pg_catalog.current_setting('wal_level')")
	if err != nil {
		return err
	}
	if level != "logical" {
		c.fail("ALTER SYSTEM SET wal_level = logical, then restart the source. RDS and Aurora: rds.logical_replication = 1 and reboot. Cloud SQL: cloudsql.logical_decoding = on. Azure: server parameter wal_level.",
			"wal_level is %s on the source", level)
	} else {
		c.ok("wal_level is logical")
	}
	for _, x := range []struct{ setting, used string }{
		{"max_replication_slots", "SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots"},
		{"max_wal_senders", "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication"},
	} {
		free, err := c.ask(c.s, "SELECT pg_catalog.current_setting('"+x.setting+"')::int - ("+x.used+")")
		if err != nil {
			return err
		}
		if free == "0" || strings.HasPrefix(free, "-") {
			c.need("Raise "+x.setting+" and restart the source, or drop what is not used any more.", "all of the source's %s are taken", x.setting)
		} else {
			c.ok("%s: %s free", x.setting, free)
		}
	}
	plugins, err := c.ask(c.s, "SELECT pg_catalog.current_setting('output_plugin_libraries', true)")
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42501":
		c.warn("GRANT pg_read_all_settings TO …, or have a superuser look: SHOW output_plugin_libraries", "the source's role may not see which output plugins are allowed; pgoutput is needed")
	case err != nil:
		return err
	}
	if plugins != "" && !strings.Contains(plugins, "pgoutput") {
		c.fail("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput, …'", "the source's output_plugin_libraries does not allow pgoutput: %s", plugins)
	}
	if c.sv >= 130000 {
		keep, err := c.ask(c.s, "SELECT pg_catalog.current_setting('max_slot_wal_keep_size')")
		if err != nil {
			return err
		}
		if keep != "-1" {
			c.warn("Raise it, or see to it that sync is never interrupted for long.", "the source drops a slot that holds back more than %s of WAL (max_slot_wal_keep_size)", keep)
		}
	}
	if c.sv >= 180000 {
		idle, err := c.ask(c.s, "SELECT pg_catalog.current_setting('idle_replication_slot_timeout')")
		if err != nil {
			return err
		}
		if idle != "0" {
			c.warn("Set it to 0, or see to it that sync is never interrupted for that long.", "the source drops a slot that nobody has read for %s (idle_replication_slot_timeout)", idle)
		}
	}
	return nil
}

func (c *checker) sourceRole() error {
	can, err := c.ask(c.s, `SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(current_user, g.oid, 'USAGE'))
		FROM pg_catalog.pg_roles WHERE rolname = current_user`)
	if err != nil {
		return err
	}
	if can == "true" {
		c.ok("the source's role may use replication slots")
	} else {
		role := pgx.Identifier{c.s.Config().User}.Sanitize()
		c.fail(fmt.Sprintf("As superuser on the source: ALTER ROLE %s REPLICATION; on RDS and Aurora: GRANT rds_replication TO %[1]s;", role), "the source's role has no REPLICATION attribute")
	}
	can, err = c.ask(c.s, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
	if err != nil {
		return err
	}
	if can != "true" {
		c.fail("GRANT CREATE ON DATABASE … TO …", "the source's role may not create a publication in the database")
	}
	owner, err := c.ask(c.s, "SELECT pg_catalog.pg_has_role(current_user, datdba, 'USAGE') FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()")
	if err != nil {
		return err
	}
	if owner != "true" {
		c.fail("Make the role a member of the owner's role, or use the owner for pgcutover.", "the source's role does not own the database, and cannot fence it at cutover")
	}
	return nil
}

func (c *checker) tables() error {
	tables, err := catalog.Tables(c.ctx, c.s)
	if err != nil {
		return err
	}
	var noKey, unlogged, foreign []string
	n := 0
	for _, t := range tables {
		if t.Kind != "r" {
			continue
		}
		n++
		name := t.Schema + "." + t.Name
		if !t.HasKey && !t.Unlogged {
			noKey = append(noKey, name)
		}
		if t.Unlogged {
			unlogged = append(unlogged, name)
		}
	}
	c.ok("%s to be migrated", count.Of(n, "table"))
	if len(noKey) > 0 {
		c.warn("If rows of them are updated or deleted during the migration: add a primary key, or ALTER TABLE … REPLICA IDENTITY FULL.",
			"%s without replica identity, of which only inserts and truncates are carried: %s", count.Of(len(noKey), "table"), some(noKey))
	}
	if len(unlogged) > 0 {
		c.warn("ALTER TABLE … SET LOGGED, or leave them alone during the migration.", "unlogged tables are loaded, but changes of them are not in the WAL: %s", some(unlogged))
	}
	notOurs, err := c.s.Query(c.ctx, `SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast)'
		AND NOT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE') ORDER BY 1`)
	if err != nil {
		return err
	}
	if foreign, err = pgx.CollectRows(notOurs, pgx.RowTo[string]); err != nil {
		return err
	}
	if len(foreign) > 0 {
		c.fail("GRANT the owners' roles to the source's role: only a table's owner may publish it.", "the source's role does not own %s: %s", count.Of(len(foreign), "table"), some(foreign))
	}
	var lobs int64
	if err := c.s.QueryRow(c.ctx, "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata").Scan(&lobs); err != nil {
		return err
	}
	if lobs > 0 {
		c.warn("Do not change them during the migration, or load them again at cutover.", "the source has %s; changes of them are not decoded by any PostgreSQL", count.Of(lobs, "large object"))
	}
	return nil
}

func some(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

func (c *checker) transactions() error {
	blockers, err := slot.Blockers(c.ctx, c.s)
	if err != nil {
		return err
	}
	var long []string
	for _, b := range blockers {
		if !strings.Contains(b, "open for 00:00:") {
			long = append(long, b)
		}
	}
	if len(long) > 0 {
		c.warn("End them, or wait: the creation of the slot waits for all transactions that have written.", "long transactions on the source: %s", some(long))
	}
	rows, err := c.s.Query(c.ctx, "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()")
	if err != nil {
		return err
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(gids) > 0 {
		c.need("COMMIT PREPARED or ROLLBACK PREPARED each: the creation of the slot waits for them.", "prepared transactions on the source: %s", some(gids))
	}
	return nil
}

func (c *checker) slotState() error {
	if c.m.Slot == "" {
		return nil
	}
	info, err := slot.Get(c.ctx, c.s, c.m.Slot)
	if err != nil {
		return err
	}
	if info == nil {
		c.ok("slot %s does not exist yet", c.m.Slot)
		return nil
	}
	c.begun = true
	database, err := c.ask(c.s, "SELECT pg_catalog.current_database()")
	if err != nil {
		return err
	}
	if err := info.Usable(c.m.Slot, database); err != nil {
		// What to do depends on whose slot it is: another's is not to be dropped.
		remedy := "Use another name."
		var f *fault.Error
		if errors.As(err, &f) && f.Hint != "" {
			remedy = f.Hint
		}
		c.fail(remedy, "%v", err)
		return nil
	}
	c.ok("slot %s exists, confirmed up to %v", c.m.Slot, info.Confirmed)
	return nil
}

func (c *checker) targetRole() error {
	can, err := c.ask(c.t, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
	if err != nil {
		return err
	}
	made, err := c.ask(c.t, "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgsluice' AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'))")
	if err != nil {
		return err
	}
	switch {
	case can == "true":
	case made == "true":
		c.warn("If the load brings schemas: GRANT CREATE ON DATABASE … TO …, or use the owner.", "the target's role may not create schemas; pgsluice is there for it")
	default:
		c.fail("GRANT CREATE ON DATABASE … TO …, or use the owner. Or, if the schema is created by hand: CREATE SCHEMA pgsluice AUTHORIZATION …", "the target's role may not create schemas")
	}
	if _, err := c.t.Exec(c.ctx, "SET session_replication_role = replica"); err == nil {
		c.ok("the target's role may switch off triggers and foreign keys (session_replication_role)")
		_, _ = c.t.Exec(c.ctx, "RESET session_replication_role")
	} else {
		role := pgx.Identifier{c.t.Config().User}.Sanitize()
		c.warn(fmt.Sprintf("As superuser on the target (15 and newer): GRANT SET ON PARAMETER session_replication_role TO %s; Else triggers and foreign keys must not be there until cutover.", role),
			"the target's role may not set session_replication_role")
	}
	return nil
}

func (c *checker) encoding() error {
	s, t := c.s.PgConn().ParameterStatus("server_encoding"), c.t.PgConn().ParameterStatus("server_encoding")
	switch {
	case s == t:
		c.ok("both databases are encoded in %s", s)
	case s == "SQL_ASCII":
		c.warn("Create the target with ENCODING 'SQL_ASCII' to keep bytes as they are, or clean up what is not "+t+".", "the source is SQL_ASCII: text that is not valid %s cannot be stored on the target", t)
	case t == "UTF8":
		c.ok("text is converted from %s to UTF8", s)
	default:
		c.warn("Create the target with ENCODING 'UTF8'.", "text is converted from %s to %s; characters that %s does not have cannot be stored", s, t, t)
	}
	return nil
}

func (c *checker) collation() error {
	const locale = "SELECT datcollate || ', ' || datctype FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
	s, err := c.ask(c.s, locale)
	if err != nil {
		return err
	}
	t, err := c.ask(c.t, locale)
	if err != nil {
		return err
	}
	if s != t {
		c.warn("Create the target with the source's LC_COLLATE and LC_CTYPE, and TEMPLATE template0, if the order matters.",
			"text is sorted and compared by other rules: collation and character type are %s on the source, %s on the target", s, t)
	} else {
		c.ok("both databases have the collation and character type %s", s)
	}
	return nil
}

// roles looks for roles that the schema names and the target does not have.
func (c *checker) roles() error {
	rows, err := c.s.Query(c.ctx, `WITH o(owner, acl) AS (
			SELECT c.relowner, c.relacl FROM pg_catalog.pg_class c WHERE c.relnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname IN ('information_schema', 'pgsluice') OR nspname ~ '^pg_')
			UNION ALL SELECT p.proowner, p.proacl FROM pg_catalog.pg_proc p WHERE p.pronamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname IN ('information_schema', 'pgsluice') OR nspname ~ '^pg_')
			UNION ALL SELECT n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n WHERE n.nspname NOT IN ('information_schema', 'pgsluice') AND n.nspname !~ '^pg_')
		SELECT DISTINCT r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_' AND r.oid IN (SELECT owner FROM o UNION SELECT a.grantee FROM o, pg_catalog.aclexplode(o.acl) a) ORDER BY 1`)
	if err != nil {
		return c.m.Source.Explain(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return c.m.Source.Explain(err)
	}
	if rows, err = c.t.Query(c.ctx, "SELECT n FROM pg_catalog.unnest($1::pg_catalog.text[]) n WHERE n NOT IN (SELECT rolname FROM pg_catalog.pg_roles) ORDER BY 1", names); err != nil {
		return err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		c.warn("Create them (pg_dumpall --roles-only | psql), or use pgextract --no-owner --no-acl.", "roles that own objects or have privileges, and that the target does not have: %s", some(missing))
	} else {
		c.ok("the target has all roles that own objects or have privileges")
	}
	return nil
}

func (c *checker) extensions() error {
	rows, err := c.s.Query(c.ctx, "SELECT extname FROM pg_catalog.pg_extension ORDER BY 1")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if rows, err = c.t.Query(c.ctx, "SELECT n FROM pg_catalog.unnest($1::pg_catalog.text[]) n WHERE n NOT IN (SELECT name FROM pg_catalog.pg_available_extensions) ORDER BY 1", names); err != nil {
		return err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	var pg *pgconn.PgError
	if errors.As(err, &pg) { // a file of any extension that is broken is enough
		c.warn("Look whether the target has the extensions "+some(names)+".", "the target cannot list its extensions: %s", pg.Message)
		return nil
	}
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		c.fail("Install them on the target (Azure: server parameter azure.extensions), or drop them on the source.", "extensions that the target does not have: %s", some(missing))
	} else {
		c.ok("the target has all extensions: %d", len(names))
	}
	return nil
}

func (c *checker) empty() error {
	var f *fault.Error
	if err := progress.Trust(c.ctx, c.t); errors.As(err, &f) {
		c.fail(f.Hint, "%v", f)
		return nil
	} else if err != nil {
		return err
	}
	streams, err := progress.Streams(c.ctx, c.t, c.m.Slot)
	if err != nil {
		return err
	}
	if len(streams) > 0 {
		c.ok("the target has been loaded in part or as a whole: %s", streams[0].LoadStatus)
		if len(streams) == 1 {
			return c.missing(streams[0])
		}
		return nil
	}
	var n int64
	err = c.t.QueryRow(c.ctx, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
		AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast)'
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')`).Scan(&n)
	if err != nil {
		return err
	}
	if n > 0 {
		c.warn("Use an empty database, or load with pgextract --data-only into empty tables.", "the target has %s already", count.Of(n, "table"))
	} else {
		c.ok("the target is empty")
	}
	return nil
}

// missing looks for tables that were made on the source after the load.
func (c *checker) missing(stream *progress.Stream) error {
	tables, err := progress.Tables(c.ctx, c.t, stream.ID)
	if err != nil {
		return err
	}
	m := *c.m
	m.Slot = stream.Key.Slot
	if m.checkSource(c.ctx, c.s, c.t, stream) != nil {
		return nil // another source's
	}
	list, err := m.missing(c.ctx, c.s, c.t, stream, tables)
	if err == nil && len(list) > 0 {
		says, remedy := m.missingText(list)
		c.warn(remedy, "%s", says)
	}
	return err
}
