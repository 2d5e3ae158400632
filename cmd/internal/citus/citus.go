// Package citus decides what is different on a target that is the coordinator of a Citus cluster.
// Other packages ask it, and know nothing of Citus themselves.
package citus

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// There is an SQL expression: the database belongs to a Citus cluster.
const There = "EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"

// Mode and ModeValue are a setting of all sessions. One connection to each worker is enough for
// what one session writes. Over several, no transaction could write a table and then one that it
// references. Other servers ignore the setting.
const (
	Mode      = "citus.multi_shard_modify_mode"
	ModeValue = "sequential"
)

// Settings are for the sessions that write. After the coordinator's commit, the workers commit what
// they have prepared: the coordinator must not lose that commit in a crash. Citus cannot plan most
// statements while their parameters are unknown.
const Settings = "SET synchronous_commit = local; SET plan_cache_mode = force_custom_plan"

// Replica says whether a session may set session_replication_role to replica. The setting would
// switch off the trigger by which Citus truncates shards. It would not reach the workers, where
// foreign keys and triggers would act all the same. So foreign keys and triggers wait for the
// cutover, as with a role that may not set it.
const Replica = false

// Own is for the transaction that creates our own schema: the tables of our state belong to the
// coordinator alone.
const Own = "SET LOCAL citus.enable_schema_based_sharding = off"

// Reads makes the workers print values as the coordinator does, in the transaction that compares
// rows.
const Reads = "SET LOCAL citus.propagate_set_commands = 'local'; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, MDY'; " +
	"SET LOCAL intervalstyle = 'postgres'; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; SET LOCAL xmlbinary = 'base64'; SET LOCAL extra_float_digits = 3"

// Commit returns the setting of synchronous_commit for sessions that change the schema, for the
// same reason. Elsewhere, such a change may be lost in a crash, and is then made again.
func Commit(cluster bool) string {
	if cluster {
		return "local"
	}
	return "off"
}

// Snapshots says whether a snapshot of the coordinator is one of the workers' rows as well.
const Snapshots = false

// Jobs is how many sessions may write changes at the same time. Statements that change several
// shards of a table exclude each other.
const Jobs = 1

// A Table is a table whose rows Citus keeps in shards.
type Table struct {
	// Column distributes the rows. It is empty for a table of which each node has all rows, or one
	// node.
	Column string
}

const tableQuery = `SELECT coalesce(CASE WHEN partmethod <> 'n' THEN pg_catalog.column_to_column_name(logicalrelid, partkey) END, '')
	FROM pg_catalog.pg_dist_partition WHERE logicalrelid = $1`

// Get returns how Citus keeps a table, or nil for a table that only the coordinator has.
func Get(ctx context.Context, c *pgx.Conn, oid uint32) (*Table, error) {
	var t Table
	err := c.QueryRow(ctx, tableQuery, oid).Scan(&t.Column)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &t, err
}

// A Sharded is a table whose rows Citus keeps in shards.
type Sharded struct {
	OID          uint32
	Schema, Name string
}

// InShards returns the tables whose changes no slot finds under their names: they are in the WAL
// under those of the shards.
func InShards(ctx context.Context, c *pgx.Conn) ([]Sharded, error) {
	if p, err := Look(ctx, c); err != nil || p == nil {
		return nil, err
	}
	rows, err := c.Query(ctx, `SELECT r.oid, n.nspname, r.relname FROM pg_catalog.pg_dist_partition p
		JOIN pg_catalog.pg_class r ON r.oid = p.logicalrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace ORDER BY 2, 3`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Sharded])
}

// Distributed returns the distribution columns, by schema and table.
func Distributed(ctx context.Context, c *pgx.Conn) (map[string]string, error) {
	rows, err := c.Query(ctx, `SELECT n.nspname || '.' || r.relname, pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) FROM pg_catalog.pg_dist_partition p
		JOIN pg_catalog.pg_class r ON r.oid = p.logicalrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace WHERE p.partmethod <> 'n'`)
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	var name, column string
	_, err = pgx.ForEachRow(rows, []any{&name, &column}, func() error { m[name] = column; return nil })
	return m, err
}

// Event is an SQL expression: the event trigger e is one of Citus itself. It acts on no rows.
const Event = `EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
	WHERE d.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass AND d.objid = e.oid AND d.deptype = 'e' AND x.extname = 'citus')`

// Plans returns why Citus cannot plan a statement, or nil if it can. The parameters are in text
// format. What the statement does is rolled back.
func Plans(ctx context.Context, c *pgx.Conn, sql string, params [][]byte) (refused *pgconn.PgError, err error) {
	if _, err := c.Exec(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	err = c.PgConn().ExecParams(ctx, sql, params, nil, nil, nil).Read().Err
	if errors.As(err, &refused) && !c.IsClosed() {
		err = nil
	}
	if err == nil {
		_, err = c.Exec(ctx, "ROLLBACK")
	}
	return refused, err
}

// Join returns a COPY statement. With no rows, it makes Citus commit the transaction on all nodes
// or on none, by two-phase commit. Otherwise a transaction that writes to one worker, and our
// position to the coordinator, is committed there first and here afterwards: a crash in between
// would let the changes be applied twice. The table is a quoted name.
func Join(table string) string { return "COPY " + table + " FROM STDIN" }

// Alone returns statements that have the server execute each statement of sql as if it came by
// itself. Citus sends the text that a statement of the schema, or a SET, came in to its workers,
// and these take one statement at a time.
func Alone(sql string) string {
	var b strings.Builder
	for _, s := range (sqltext.Rules{}).Split(sql) {
		b.WriteString("EXECUTE " + text.Literal(s.Text) + "; ")
	}
	if b.Len() == 0 {
		return sql
	}
	return "DO " + text.Literal("BEGIN "+b.String()+"END") + ";"
}

// A Place is a node of a cluster.
type Place struct {
	Version string
	Worker  bool
}

// Look returns what a connection leads to, or nil if there is no Citus.
func Look(ctx context.Context, c *pgx.Conn) (*Place, error) {
	var p Place
	if err := c.QueryRow(ctx, "SELECT coalesce((SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus'), '')").Scan(&p.Version); err != nil || p.Version == "" {
		return nil, err
	}
	p.Version, _, _ = strings.Cut(p.Version, "-")
	err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_local_group WHERE groupid <> 0)").Scan(&p.Worker)
	return &p, err
}
