// Package inventory reads the objects of a database's schema. The facts of an object can be
// compared between servers of different versions. Its definition can only be compared with an
// earlier one from the same server.
package inventory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// Classes of objects. Names are unique within a class, across kinds.
const (
	Schema           = "schema"
	Relation         = "relation"
	Column           = "column"
	Index            = "index"
	Constraint       = "constraint"
	DomainConstraint = "domain constraint"
	Trigger          = "trigger"
	Rule             = "rule"
	Policy           = "policy"
	Function         = "function"
	Type             = "type"
	Sequence         = "sequence"
	Extension        = "extension"
	Statistics       = "statistics"
	EventTrigger     = "event trigger"
	Privileges       = "default privileges"
	Setting          = "setting"
	Database         = "database" // the database itself, for the privileges on it
	Label            = "security label"
	Other            = "other"
)

// A Key identifies an object. Table is the table, view or domain that it belongs to.
type Key struct{ Class, Schema, Table, Name string }

// An Object is an object of a database. Facts are the same on servers of all versions. Definition
// is what a server prints in its own style: expressions and queries.
type Object struct {
	Key
	Kind       string   // for people: table, view, unique index …
	Facts      []string // names and values alternate
	Definition string
	// ACL entries have the grantee (PUBLIC, @owner, or a role, quoted where needed), the privilege,
	// and * if there is a grant option. On is the name in GRANT. It is empty if the object has no
	// privileges.
	ACL [][]string
	On  string
	// The statement that creates the object, without owner, rights and comment. It is empty if one
	// statement is not enough.
	SQL string
}

// Fact returns the value of a fact.
func (o *Object) Fact(name string) string {
	for i := 0; i+1 < len(o.Facts); i += 2 {
		if o.Facts[i] == name {
			return o.Facts[i+1]
		}
	}
	return ""
}

// Uses returns the columns that take their values from a sequence, through a default or as an
// identity.
func (o *Object) Uses() (list []Key) {
	var feeds [][3]string
	_ = json.Unmarshal([]byte("["+o.Fact("feeds")+"]"), &feeds)
	if o.Fact("identity") != "" {
		feeds = append(feeds, [3]string{o.Fact("table schema"), o.Fact("table"), o.Fact("column")})
	}
	for _, f := range feeds {
		list = append(list, Key{Class: Column, Schema: f[0], Table: f[1], Name: f[2]})
	}
	return list
}

// Fingerprint returns a hash of the definition, and a hash of everything else.
func (o *Object) Fingerprint() (definition, facts string) {
	all := append([]string{o.Kind}, o.Facts...)
	for _, a := range o.ACL {
		all = append(all, a...)
	}
	return hash(o.Definition), hash(all...)
}

func hash(list ...string) string {
	h := sha256.New()
	for _, s := range list {
		_, _ = h.Write([]byte(s))
		_, _ = h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// Read returns the objects of a database in one round trip. The session's search path must be
// empty, so that definitions qualify every name with its schema.
func Read(ctx context.Context, c *pgx.Conn) ([]Object, error) {
	return again(ctx, c, queries(pgdial.Version(c.PgConn())))
}

// Sequences returns only the sequences.
func Sequences(ctx context.Context, c *pgx.Conn) ([]Object, error) {
	return again(ctx, c, []string{sequences})
}

// Fleeting reports whether an error may come from an object that was dropped while it was being
// read.
func Fleeting(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "XX000" || pg.Code == "42704" || pg.Code == "42883" || pg.Code == "42P01")
}

func again(ctx context.Context, c *pgx.Conn, asked []string) (list []Object, err error) {
	for try := 1; ; try++ {
		inside := c.PgConn().TxStatus() != 'I'
		list, err = read(ctx, c, asked, inside)
		if err == nil || inside {
			return list, err
		}
		if c.PgConn().TxStatus() != 'I' && !c.IsClosed() {
			if _, e := c.Exec(ctx, "ROLLBACK"); e != nil {
				return nil, err
			}
		}
		if !Fleeting(err) || try == 3 {
			return nil, err
		}
	}
}

// read runs the queries in a transaction, which limits its settings to them. The server locks
// tables to print some definitions. The lock timeout keeps read from waiting long for another
// session.
func read(ctx context.Context, c *pgx.Conn, asked []string, inside bool) (list []Object, err error) {
	var batch pgx.Batch
	if !inside {
		batch.Queue("BEGIN READ ONLY")
	}
	batch.Queue("SET LOCAL quote_all_identifiers = off")
	batch.Queue("SET LOCAL lock_timeout = '3s'")
	for _, sql := range asked {
		batch.Queue(sql).Query(func(rows pgx.Rows) error {
			var o Object
			var acl [][]string
			_, err := pgx.ForEachRow(rows, []any{&o.Class, &o.Schema, &o.Table, &o.Name, &o.Kind, &o.Facts,
				&acl, &o.On, &o.Definition, &o.SQL}, func() error {
				x := o
				x.ACL, acl = acl, nil
				o.Facts = nil
				list = append(list, x)
				return nil
			})
			return err
		})
	}
	if !inside {
		batch.Queue("COMMIT")
	}
	err = c.SendBatch(ctx, &batch).Close()
	return list, err
}

// ours is true for namespaces n that contain the user's objects.
const ours = `n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast_temp)_'`

// since returns sql if the server has at least version first. Otherwise it returns before.
func since(version, first int, sql, before string) string {
	if version >= first {
		return sql
	}
	return before
}

// The following queries must take time proportional to the number of objects, even without
// statistics: after a load, the planner may believe that the catalogs are empty. So they leave it
// no choice that could become a nested loop over two catalogs. They either build a list once and
// hash it, or find a row by an index.

// own is true for objects that do not belong to an extension.
func own(catalog, oid string) string {
	return oid + ` NOT IN (SELECT x.objid FROM pg_catalog.pg_depend x WHERE x.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND x.classid IS NOT DISTINCT FROM 'pg_catalog.` + catalog + `'::pg_catalog.regclass AND x.objsubid = 0 AND x.deptype = 'e')`
}

// rights returns an expression for the rights in an ACL. A NULL ACL means the default rights. These
// do not depend on the owner, so the server computes them only once.
func rights(kind, acl, owner string) string {
	return `CASE WHEN ` + acl + ` IS NULL THEN ` + granted(`pg_catalog.acldefault(`+kind+`, 10::pg_catalog.oid)`, `10::pg_catalog.oid`) + ` ELSE ` + granted(acl, owner) + ` END`
}

func granted(acl, owner string) string {
	return `ARRAY(SELECT ARRAY[CASE a.grantee WHEN 0 THEN 'PUBLIC' WHEN ` + owner + ` THEN '@owner' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, a.privilege_type,
		CASE WHEN a.is_grantable AND a.grantee <> ` + owner + ` THEN '*' ELSE '' END] FROM pg_catalog.aclexplode(` + acl + `) a ORDER BY 1)`
}

const none = `NULL::pg_catalog.text[], ''`

// comment joins the comment of an object as d.
func comment(catalog, oid, sub string) string {
	return ` LEFT JOIN LATERAL (SELECT de.description FROM pg_catalog.pg_description de WHERE de.classoid = 'pg_catalog.` + catalog +
		`'::pg_catalog.regclass AND de.objoid = ` + oid + ` AND de.objsubid = ` + sub + ` OFFSET 0) d ON true`
}

const says = `'comment', coalesce(d.description, '')`

func owner(column string) string {
	return `'owner', pg_catalog.pg_get_userbyid(` + column + `)::pg_catalog.text`
}

// names returns an expression for the names of the columns of relation rel whose numbers are in an
// array.
func names(array, rel string) string {
	return `coalesce((SELECT pg_catalog.string_agg(coalesce((SELECT pg_catalog.quote_ident(na.attname) FROM pg_catalog.pg_attribute na WHERE na.attrelid = ` + rel + ` AND na.attnum = nk.num AND nk.num <> 0), '(expression)'), ', ' ORDER BY nk.place)
		FROM pg_catalog.unnest(` + array + `) WITH ORDINALITY nk(num, place)), '')`
}

func yes(condition string) string { return `CASE WHEN ` + condition + ` THEN 'yes' ELSE '' END` }

// joined leaves out pg_attver, which servers since the minor releases of November 2026 keep among a
// column's options for their own use. It differs from server to server.
func joined(array string) string {
	return `CASE WHEN ` + array + ` IS NULL THEN '' ELSE coalesce((SELECT pg_catalog.string_agg(o.o, ', ' ORDER BY o.o COLLATE "C")
		FROM pg_catalog.unnest(` + array + `) o(o) WHERE pg_catalog.left(o.o, 10) <> 'pg_attver='), '') END`
}

// printed joins the server's output for an expression as p.definition, so that the server produces
// it only once.
func printed(expression string) string {
	return ` CROSS JOIN LATERAL (SELECT ` + expression + ` AS definition OFFSET 0) p`
}

// String names the object for messages. It does not include the class.
func (k Key) String() string {
	var parts []string
	for _, p := range []string{k.Schema, k.Table, k.Name} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ".")
}
