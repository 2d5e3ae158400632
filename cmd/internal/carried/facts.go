package carried

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// Tables reads the facts and judges them: what the given publications of the connected database
// carry of each table to migrate. It takes no lock on any of the tables.
func Tables(ctx context.Context, c *pgx.Conn, publications []string) (*State, error) {
	s, err := read(ctx, c, publications)
	if err == nil {
		s.Judge()
	}
	return s, err
}

// read queries all tables in one statement, so that the result describes one moment. The first row
// also contains the publications.
func read(ctx context.Context, c *pgx.Conn, publications []string) (*State, error) {
	s := &State{Version: pgdial.Version(c.PgConn()), Role: c.Config().User, byOID: make(map[uint32]*Table)}
	var pubs, direct, schema *string
	var created, parentXID, xid int64
	var t Table
	i := &t.Identity
	var batch pgx.Batch
	begin, end := "BEGIN READ ONLY", "ROLLBACK"
	if c.PgConn().TxStatus() != 'I' {
		begin, end = "SAVEPOINT carried", "ROLLBACK TO carried"
	}
	batch.Queue(begin)
	// Without statistics of the catalogs, the planner might compare each table with each index.
	batch.Queue("SET LOCAL enable_nestloop = off")
	batch.Queue(statement(s.Version), publications).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&t.OID, &t.Schema, &t.Name, &t.Kind, &t.Unlogged, &t.Extension,
			&t.Owner, &t.Foreign, &created, &t.Parent, &parentXID, &t.DetachPending,
			&i.Setting, &i.There, &i.Immediate, &i.Valid, &i.Generated, &i.Virtual, &i.Generating, &i.Imagining,
			&direct, &schema, &xid, &pubs}, func() error {
			x := t
			x.XID, x.ParentXID = uint32(created), uint32(parentXID)
			for _, in := range []*string{direct, schema} {
				if in == nil {
					continue
				}
				var list []Membership
				if err := json.Unmarshal([]byte(*in), &list); err != nil {
					return err
				}
				x.In = append(x.In, list...)
			}
			if pubs != nil {
				if err := json.Unmarshal([]byte(*pubs), &s.Publications); err != nil {
					return err
				}
			}
			s.XID = uint64(xid)
			s.Tables = append(s.Tables, &x)
			s.byOID[x.OID] = &x
			return nil
		})
		return err
	})
	batch.Queue(end)
	err := c.SendBatch(ctx, &batch).Close()
	if err != nil && c.PgConn().TxStatus() == 'E' && !c.IsClosed() {
		_, _ = c.Exec(ctx, end)
	}
	return s, err
}

func statement(version int) string {
	when := func(from int, there, else_ string) string {
		if version >= from {
			return there
		}
		return else_
	}
	has := func(kinds string) string {
		return when(120000, "coalesce(g.kinds && ARRAY["+kinds+"], false)", "false")
	}
	inKey := func(kinds string) string {
		return when(120000, "CASE WHEN "+has(kinds)+
			" THEN EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (k.indkey) AND a.attgenerated::pg_catalog.text IN ("+
			kinds+")) ELSE false END", "false")
	}
	foreign := func(owner string) string {
		return "CASE WHEN pg_catalog.pg_has_role(" + owner +
			", 'USAGE') THEN 0 WHEN (SELECT o.rolsuper FROM pg_catalog.pg_roles o WHERE o.oid = " + owner +
			") THEN 2 ELSE 1 END"
	}
	// Which tables have generated columns.
	generated := when(120000, `
	LEFT JOIN (SELECT a.attrelid, pg_catalog.array_agg(a.attgenerated::pg_catalog.text) AS kinds FROM pg_catalog.pg_attribute a
		WHERE a.attgenerated <> '' AND a.attnum > 0 AND NOT a.attisdropped GROUP BY a.attrelid) g ON g.attrelid = c.oid`, "")
	key := when(110000, "indnkeyatts", "indnatts")
	direct := `SELECT r.prrelid, pg_catalog.json_agg(pg_catalog.json_build_object('Publication', r.prpubid::bigint, 'XID', r.xmin::pg_catalog.text::bigint` +
		when(150000, `, 'Filter', coalesce(pg_catalog.pg_get_expr(r.prqual, r.prrelid), ''),
			'LeftOut', (SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE r.prattrs IS NOT NULL AND a.attrelid = r.prrelid AND a.attnum > 0
				AND NOT a.attisdropped AND a.attgenerated = '' AND a.attnum <> ALL (r.prattrs::pg_catalog.int2[]))`, "") +
		`))::pg_catalog.text AS x FROM pg_catalog.pg_publication_rel r JOIN pub ON pub.id = r.prpubid GROUP BY r.prrelid`
	schema := when(150000, `
	LEFT JOIN (SELECT s.pnnspid, pg_catalog.json_agg(pg_catalog.json_build_object('Publication', s.pnpubid::bigint, 'XID', s.xmin::pg_catalog.text::bigint, 'Schema', true))::pg_catalog.text AS x
		FROM pg_catalog.pg_publication_namespace s JOIN pub ON pub.id = s.pnpubid GROUP BY s.pnnspid) inschema ON inschema.pnnspid = c.relnamespace`, "")
	return `WITH pub AS (SELECT p.oid AS id, p.xmin AS xid, p.* FROM pg_catalog.pg_publication p WHERE p.pubname = ANY ($1::pg_catalog.text[]))
	SELECT c.oid, n.nspname, c.relname, c.relkind::pg_catalog.text, c.relpersistence = 'u', e.condition IS NOT NULL, pg_catalog.pg_get_userbyid(c.relowner), ` + foreign("c.relowner") + `,
		coalesce(made.xid::pg_catalog.text::bigint, 0),
		coalesce(h.inhparent, 0), coalesce(h.xmin::pg_catalog.text::bigint, 0), ` + when(140000, "coalesce(h.inhdetachpending, false)", "false") + `,
		c.relreplident::pg_catalog.text, k.indexrelid IS NOT NULL, coalesce(k.indimmediate, false), coalesce((k.indisvalid OR c.relkind = 'p') AND k.live, false),
		` + inKey("'s', 'v'") + `, ` + inKey("'v'") + `, ` + has("'s'") + `, ` + has("'v'") + `,
		direct.x, ` + when(150000, "inschema.x", "NULL::pg_catalog.text") + `, pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()),
		CASE WHEN pg_catalog.row_number() OVER (ORDER BY n.nspname, c.relname) = 1 THEN (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('OID', pub.id::bigint, 'Name', pub.pubname,
			'XID', pub.xid::pg_catalog.text::bigint, 'Owner', pg_catalog.pg_get_userbyid(pub.pubowner), 'Foreign', ` + foreign("pub.pubowner") + `,
			'AllTables', pub.puballtables, 'ViaRoot', ` + when(130000, "pub.pubviaroot", "false") + `, 'Generated', ` + when(180000, "pub.pubgencols = 's'", "false") + `,
			'Insert', pub.pubinsert, 'Update', pub.pubupdate, 'Delete', pub.pubdelete, 'Truncate', ` + when(110000, "pub.pubtruncate", "false") + `) ORDER BY pub.pubname)::pg_catalog.text FROM pub) END
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN (SELECT a.attrelid, a.xmin AS xid FROM pg_catalog.pg_attribute a WHERE a.attnum = -1) made ON made.attrelid = c.oid` + generated + `
	LEFT JOIN pg_catalog.pg_inherits h ON c.relispartition AND h.inhrelid = c.oid
	LEFT JOIN (SELECT i.indrelid, i.indexrelid, i.indisprimary, i.indisreplident, i.indimmediate, i.indisvalid, i.indislive AND i.indisunique AND i.indpred IS NULL AS live,
			(i.indkey::pg_catalog.int2[])[0:i.` + key + ` - 1] AS indkey
		FROM pg_catalog.pg_index i WHERE i.indisprimary OR i.indisreplident) k ON k.indrelid = c.oid
			AND (k.indisprimary AND (c.relreplident = 'd' OR c.relkind = 'p') OR c.relreplident = 'i' AND c.relkind = 'r' AND k.indisreplident)
	LEFT JOIN (` + direct + `) direct ON direct.prrelid = c.oid` + schema + `
	LEFT JOIN (SELECT d.objid, d.refobjid FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
		AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0 AND d.deptype = 'e') d ON d.objid = c.oid
	LEFT JOIN LATERAL (SELECT x.extcondition[v.n] AS condition FROM pg_catalog.pg_extension x,
		pg_catalog.generate_subscripts(x.extconfig, 1) AS v(n) WHERE x.oid = d.refobjid AND x.extconfig[v.n] = c.oid) e ON true
	WHERE c.relkind IN ('r', 'p') AND ` + catalog.Migrated + ` AND (d.objid IS NULL OR e.condition IS NOT NULL)
	ORDER BY n.nspname, c.relname`
}
