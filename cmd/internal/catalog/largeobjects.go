package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A LargeObject is what the catalog knows of a large object, without its contents.
type LargeObject struct {
	OID     uint32
	Owner   string
	Comment string
	// Rights holds explicit grants. If there are any, or Restricted is set, the owner has no other
	// rights.
	Restricted bool
	Rights     []Right
}

// A Right is a privilege granted to a role.
type Right struct {
	Grantor, Grantee string // Grantee is empty for PUBLIC
	Privilege        string
	Grantable        bool
}

// EachLargeObject calls f for every large object of the database, in OID order.
func EachLargeObject(ctx context.Context, c *pgx.Conn, f func(*LargeObject) error) error {
	rows, err := c.Query(ctx, `SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner), coalesce(pg_catalog.obj_description(m.oid, 'pg_largeobject'), ''), m.lomacl IS NOT NULL,
		ARRAY(SELECT ARRAY[pg_catalog.pg_get_userbyid(a.grantor), CASE a.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee) END, a.privilege_type,
			CASE WHEN a.is_grantable THEN 'grantable' ELSE '' END]::pg_catalog.text[] FROM pg_catalog.aclexplode(m.lomacl) a ORDER BY a.grantor <> m.lomowner)
		FROM pg_catalog.pg_largeobject_metadata m ORDER BY m.oid`)
	if err != nil {
		return err
	}
	var o LargeObject
	var rights [][]string
	_, err = pgx.ForEachRow(rows, []any{&o.OID, &o.Owner, &o.Comment, &o.Restricted, &rights}, func() error {
		o.Rights = o.Rights[:0]
		for _, r := range rights {
			o.Rights = append(o.Rights, Right{Grantor: r[0], Grantee: r[1], Privilege: r[2], Grantable: r[3] != ""})
		}
		return f(&o)
	})
	return err
}
