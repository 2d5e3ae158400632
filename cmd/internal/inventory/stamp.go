package inventory

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A stamped catalog is one that Read reads, directly or in the server's functions.
type stamped struct {
	from  string // catalog t, with what is joined to it
	what  string // what changes with a row; empty for the row's version
	where string // leaves out rows that Read does not read
}

// version identifies a version of a row. The server gives every new version another place or
// another transaction.
const version = "t.xmin, t.ctid"

// ofTables leaves out the rows of temporary tables. An application creates and drops these all the
// time.
func ofTables(catalog, table string) stamped {
	return stamped{from: catalog + " t", where: "t." + table + " NOT IN (SELECT x.oid FROM temporary x)"}
}

// stampedCatalogs lists all that Read reads. Every role may read all of it.
func stampedCatalogs(v int) []stamped {
	const ofSpaces = " NOT IN (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname ~ '^pg_(temp|toast_temp)_')"
	attributes, indexes := ofTables("pg_attribute", "attrelid"), ofTables("pg_index", "indrelid")
	attributes.where += " AND t.attnum > 0"
	// Before 14, the server changes these flags in place.
	indexes.what = version + ", t.indisvalid, t.indisready, t.indislive"
	list := []stamped{
		attributes, indexes, ofTables("pg_class", "oid"), ofTables("pg_attrdef", "adrelid"),
		ofTables("pg_constraint", "conrelid"), ofTables("pg_inherits", "inhrelid"),
		ofTables("pg_rewrite", "ev_class"), ofTables("pg_sequence", "seqrelid"), ofTables("pg_trigger", "tgrelid"),
		{from: "pg_namespace t", where: "t.oid" + ofSpaces},
		{from: "pg_type t", where: "t.typnamespace" + ofSpaces},
		// Which objects belong to an extension, a type or an operator family; which column a
		// sequence belongs to or feeds.
		{from: "pg_depend t", where: `(t.deptype = 'e' OR t.classid IN ('pg_catalog.pg_amop'::pg_catalog.regclass, 'pg_catalog.pg_amproc'::pg_catalog.regclass)
			OR t.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND t.deptype = 'i'
			OR t.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND (t.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND t.refobjsubid > 0
				OR t.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND t.refobjsubid = 0))
			AND NOT (t.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND t.refobjid IN (SELECT x.oid FROM temporary x))`},
		// Catalogs that all databases share, or that not every role may read.
		{from: "pg_roles t", what: "t.oid, ' ', t.rolname"},
		{
			from: "pg_database t", where: "t.datname = pg_catalog.current_database()",
			what: "t.datname, ' ', t.datdba, ' ', ARRAY(SELECT a FROM pg_catalog.aclexplode(coalesce(t.datacl, pg_catalog.acldefault('d', t.datdba))) a WHERE a.privilege_type <> 'CONNECT' ORDER BY a.grantee, a.grantor, a.privilege_type)",
		},
		{
			from: "pg_db_role_setting t JOIN pg_catalog.pg_database b ON b.oid = t.setdatabase AND b.datname = pg_catalog.current_database(), pg_catalog.unnest(t.setconfig) x(x)",
			what: "t.setrole, ' ', x.x", where: "pg_catalog.split_part(x.x, '=', 1) <> 'default_transaction_read_only'",
		},
		{from: "pg_user_mappings t", what: "t"},
		{
			from: "pg_publication p JOIN pg_catalog.pg_replication_slots t ON p.pubname IN (t.slot_name, pg_catalog.left(t.slot_name || '_insert_only', 63))",
			what: "p.oid",
		},
	}
	others := []string{"pg_aggregate", "pg_am", "pg_amop", "pg_amproc", "pg_cast", "pg_collation", "pg_conversion",
		"pg_default_acl", "pg_description", "pg_enum", "pg_event_trigger", "pg_extension", "pg_foreign_data_wrapper",
		"pg_foreign_server", "pg_foreign_table", "pg_init_privs", "pg_language", "pg_opclass", "pg_operator",
		"pg_opfamily", "pg_partitioned_table", "pg_policy", "pg_proc", "pg_publication", "pg_publication_rel",
		"pg_range", "pg_seclabel", "pg_statistic_ext", "pg_transform", "pg_ts_config", "pg_ts_config_map",
		"pg_ts_dict", "pg_ts_parser", "pg_ts_template"}
	if v >= 150000 {
		others = append(others, "pg_publication_namespace")
	}
	for _, catalog := range others {
		list = append(list, stamped{from: catalog + " t"})
	}
	return list
}

// Stamp returns a value that changes whenever Read may return something else: after a statement
// that changes the schema, and with another server version or other queries of ours. It is computed
// from the versions of the catalogs' rows, and takes a small part of the time that Read takes.
// Temporary tables do not count. Neither do the values of sequences, nor what a fence changes: the
// setting that it makes, and the right to connect to the database.
//
// Everything goes into the hash in the order in which the server reads it. If the server chooses
// another order, nothing is hidden: the stamp changes without need. A sum would not depend on the
// order, but a role that makes many changes could choose some that cancel each other out.
func Stamp(ctx context.Context, c *pgx.Conn) (stamp string, err error) {
	v := pgdial.Version(c.PgConn())
	catalogs := stampedCatalogs(v)
	parts := make([]string, len(catalogs))
	for i, x := range catalogs {
		if x.what == "" {
			x.what = version
		}
		parts[i] = "(SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat(" + x.what + "), ',')) FROM pg_catalog." + x.from
		if x.where != "" {
			parts[i] += " WHERE " + x.where
		}
		parts[i] += ")"
	}
	ask := "WITH temporary AS (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relpersistence = 't') SELECT pg_catalog.md5(pg_catalog.concat_ws(',', pg_catalog.current_setting('server_version'), " +
		"'" + hash(queries(v)...) + "', " + strings.Join(parts, ", ") + "))"
	var batch pgx.Batch
	inside := c.PgConn().TxStatus() != 'I'
	if !inside {
		batch.Queue("BEGIN READ ONLY")
	}
	batch.Queue("SET LOCAL synchronize_seqscans = off")
	batch.Queue("SET LOCAL max_parallel_workers_per_gather = 0")
	batch.Queue(ask).QueryRow(func(row pgx.Row) error { return row.Scan(&stamp) })
	if !inside {
		batch.Queue("COMMIT")
	}
	err = c.SendBatch(ctx, &batch).Close()
	return stamp, err
}

// SequenceStamp is Stamp for what decides which sequence of the target belongs to which one of the
// source: the sequences, the columns that own them, and the columns' defaults.
func SequenceStamp(ctx context.Context, c *pgx.Conn) (stamp string, err error) {
	err = c.QueryRow(ctx, `SELECT pg_catalog.md5(pg_catalog.concat_ws(',',
		(SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(t.seqrelid, ' ', t.xmin, t.ctid, ' ', d.refobjid, ' ', d.refobjsubid)))) FROM pg_catalog.pg_sequence t
			LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = t.seqrelid AND d.refclassid = d.classid AND d.deptype IN ('a', 'i')),
		(SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(t.oid, ' ', t.xmin, t.ctid)))) FROM pg_catalog.pg_attrdef t)))`).Scan(&stamp)
	return stamp, err
}
