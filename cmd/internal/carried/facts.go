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
	rows, err := c.Query(ctx, statement(s.Version), publications)
	if err != nil {
		return nil, err
	}
	var pubs, in *string
	var created, parentXID, xid int64
	var t Table
	i := &t.Identity
	_, err = pgx.ForEachRow(rows, []any{&t.OID, &t.Schema, &t.Name, &t.Kind, &t.Unlogged, &t.Extension,
		&t.Owner, &t.Foreign, &created, &t.Parent, &parentXID, &t.DetachPending,
		&i.Setting, &i.There, &i.Immediate, &i.Valid, &i.Generated, &i.Virtual, &i.Generating, &i.Imagining,
		&in, &xid, &pubs}, func() error {
		x := t
		x.XID, x.ParentXID = uint32(created), uint32(parentXID)
		if in != nil {
			if err := json.Unmarshal([]byte(*in), &x.In); err != nil {
				return err
			}
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
	return s, err
}

func statement(version int) string {
	when := func(from int, there, else_ string) string {
		if version >= from {
			return there
		}
		return else_
	}
	// Few tables have generated columns. To list these once is faster than to look at each table.
	generated := when(120000, `, generated AS (SELECT a.attrelid, a.attgenerated FROM pg_catalog.pg_attribute a
		WHERE a.attgenerated <> '' AND a.attnum > 0 AND NOT a.attisdropped)`, "")
	has := func(kinds string) string {
		return when(120000, "c.oid IN (SELECT x.attrelid FROM generated x WHERE x.attgenerated IN ("+kinds+"))", "false")
	}
	inKey := func(kinds string) string {
		return when(120000, "CASE WHEN "+has(kinds)+
			" THEN EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (k.indkey) AND a.attgenerated IN ("+
			kinds+")) ELSE false END", "false")
	}
	foreign := func(owner string) string {
		return "CASE WHEN pg_catalog.pg_has_role(" + owner +
			", 'USAGE') THEN 0 WHEN (SELECT o.rolsuper FROM pg_catalog.pg_roles o WHERE o.oid = " + owner +
			") THEN 2 ELSE 1 END"
	}
	key := when(110000, "indnkeyatts", "indnatts")
	member := `SELECT pg_catalog.json_build_object('Publication', r.prpubid::bigint, 'XID', r.xmin::pg_catalog.text::bigint` +
		when(150000, `, 'Filter', coalesce(pg_catalog.pg_get_expr(r.prqual, r.prrelid), ''),
			'LeftOut', (SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE r.prattrs IS NOT NULL AND a.attrelid = r.prrelid AND a.attnum > 0
				AND NOT a.attisdropped AND a.attgenerated = '' AND a.attnum <> ALL (r.prattrs::pg_catalog.int2[]))`, "") +
		`) AS x FROM pg_catalog.pg_publication_rel r JOIN pub ON pub.id = r.prpubid WHERE r.prrelid = c.oid` +
		when(150000, ` UNION ALL SELECT pg_catalog.json_build_object('Publication', s.pnpubid::bigint, 'XID', s.xmin::pg_catalog.text::bigint, 'Schema', true)
			FROM pg_catalog.pg_publication_namespace s JOIN pub ON pub.id = s.pnpubid WHERE s.pnnspid = c.relnamespace`, "")
	return `WITH pub AS (SELECT p.oid AS id, p.xmin AS xid, p.* FROM pg_catalog.pg_publication p WHERE p.pubname = ANY ($1::pg_catalog.text[]))` + generated + `
	SELECT c.oid, n.nspname, c.relname, c.relkind::pg_catalog.text, c.relpersistence = 'u', e.condition IS NOT NULL, pg_catalog.pg_get_userbyid(c.relowner), ` + foreign("c.relowner") + `,
		coalesce((SELECT a.xmin::pg_catalog.text::bigint FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = -1), 0),
		coalesce(h.inhparent, 0), coalesce(h.xmin::pg_catalog.text::bigint, 0), ` + when(140000, "coalesce(h.inhdetachpending, false)", "false") + `,
		c.relreplident::pg_catalog.text, k.indexrelid IS NOT NULL, coalesce(k.indimmediate, false), coalesce(k.valid, false),
		` + inKey("'s', 'v'") + `, ` + inKey("'v'") + `, ` + has("'s'") + `, ` + has("'v'") + `,
		(SELECT pg_catalog.json_agg(m.x)::pg_catalog.text FROM (` + member + `) m), pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()),
		CASE WHEN pg_catalog.row_number() OVER (ORDER BY n.nspname, c.relname) = 1 THEN (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('OID', pub.id::bigint, 'Name', pub.pubname,
			'XID', pub.xid::pg_catalog.text::bigint, 'Owner', pg_catalog.pg_get_userbyid(pub.pubowner), 'Foreign', ` + foreign("pub.pubowner") + `,
			'AllTables', pub.puballtables, 'ViaRoot', ` + when(130000, "pub.pubviaroot", "false") + `, 'Generated', ` + when(180000, "pub.pubgencols = 's'", "false") + `,
			'Insert', pub.pubinsert, 'Update', pub.pubupdate, 'Delete', pub.pubdelete, 'Truncate', ` + when(110000, "pub.pubtruncate", "false") + `) ORDER BY pub.pubname)::pg_catalog.text FROM pub) END
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_catalog.pg_inherits h ON c.relispartition AND h.inhrelid = c.oid
	LEFT JOIN LATERAL (SELECT i.indexrelid, i.indimmediate, (i.indisvalid OR c.relkind = 'p') AND i.indislive AND i.indisunique AND i.indpred IS NULL AS valid,
			(i.indkey::pg_catalog.int2[])[0:i.` + key + ` - 1] AS indkey
		FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary AND (c.relreplident = 'd' OR c.relkind = 'p') OR c.relreplident = 'i' AND c.relkind = 'r' AND i.indisreplident) LIMIT 1) k ON true
	LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e'
	LEFT JOIN LATERAL (SELECT x.extcondition[v.n] AS condition FROM pg_catalog.pg_extension x,
		pg_catalog.generate_subscripts(x.extconfig, 1) AS v(n) WHERE x.oid = d.refobjid AND x.extconfig[v.n] = c.oid) e ON true
	WHERE c.relkind IN ('r', 'p') AND ` + catalog.Migrated + ` AND (d.objid IS NULL OR e.condition IS NOT NULL)
	ORDER BY n.nspname, c.relname`
}
