// Package inventory reads what a database has: each object of its schema, with what can be compared
// between servers of different versions, and with the definition, which only one server can compare
// with what it was before.
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

// Classes of objects. Objects of one class have names of their own, whatever their kind.
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
	Database         = "database" // itself: who may do what with it
	Label            = "security label"
	Other            = "other"
)

// A Key says which object it is. Table is the table, view or domain that it belongs to.
type Key struct{ Class, Schema, Table, Name string }

// An Object is one of a database's. Facts say the same on servers of all versions. Definition has
// what a server prints in its own way: expressions and queries.
type Object struct {
	Key
	Kind       string   // for people: table, view, unique index …
	Facts      []string // name and value in turn
	Definition string
	// ACL has grantee (PUBLIC, @owner, or a role, quoted where needed), privilege, and * if it may
	// be passed on. On has how GRANT names the object; empty if there are no rights on it.
	ACL [][]string
	On  string
	// creates it, without its owner, rights and comment; empty if that takes more than a statement
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

// Uses returns the columns that take their values from a sequence, by default or as an identity.
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

// Fingerprint returns a hash of the definition, and one of everything else.
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

// Read returns the objects of a database, in one round trip. The session's search path must be
// empty, so that definitions name everything with its schema.
func Read(ctx context.Context, c *pgx.Conn) ([]Object, error) {
	return again(ctx, c, queries(pgdial.Version(c.PgConn())))
}

// Sequences returns the sequences only.
func Sequences(ctx context.Context, c *pgx.Conn) ([]Object, error) {
	return again(ctx, c, []string{sequences})
}

// Fleeting reports whether an error may be that of an object which was dropped while it was looked
// at.
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

// read reads in a transaction, whose settings hold for it alone. Some definitions are made by
// looking at tables as a query does, and nobody is to wait long for somebody else's lock.
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

// ours is true for namespaces n whose objects are the user's.
const ours = `n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast_temp)_'`

// since returns sql if the server is as new as that, else what stands for it on older ones.
func since(version, first int, sql, before string) string {
	if version >= first {
		return sql
	}
	return before
}

// What follows has to take time in proportion to the number of objects, whatever a server knows of
// its catalogs: after a load it may believe that they are empty. So nothing is left to the planner
// that could become a loop over one catalog for each row of another: either a list is made once and
// hashed, or a row is found by its index.

// own is true for objects that do not belong to an extension.
func own(catalog, oid string) string {
	return oid + ` NOT IN (SELECT x.objid FROM pg_catalog.pg_depend x WHERE x.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND x.classid IS NOT DISTINCT FROM 'pg_catalog.` + catalog + `'::pg_catalog.regclass AND x.objsubid = 0 AND x.deptype = 'e')`
}

// rights returns an expression for the rights in an ACL. Where there is none, they are those by
// default, which are the same whoever the owner is, and are found once.
func rights(kind, acl, owner string) string {
	return `CASE WHEN ` + acl + ` IS NULL THEN ` + granted(`pg_catalog.acldefault(`+kind+`, 10::pg_catalog.oid)`, `10::pg_catalog.oid`) + ` ELSE ` + granted(acl, owner) + ` END`
}

func granted(acl, owner string) string {
	return `ARRAY(SELECT ARRAY[CASE a.grantee WHEN 0 THEN 'PUBLIC' WHEN ` + owner + ` THEN '@owner' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, a.privilege_type,
		CASE WHEN a.is_grantable AND a.grantee <> ` + owner + ` THEN '*' ELSE '' END] FROM pg_catalog.aclexplode(` + acl + `) a ORDER BY 1)`
}

const none = `NULL::pg_catalog.text[], ''`

// comment joins an object's comment as d.
func comment(catalog, oid, sub string) string {
	return ` LEFT JOIN LATERAL (SELECT de.description FROM pg_catalog.pg_description de WHERE de.classoid = 'pg_catalog.` + catalog +
		`'::pg_catalog.regclass AND de.objoid = ` + oid + ` AND de.objsubid = ` + sub + ` OFFSET 0) d ON true`
}

const says = `'comment', coalesce(d.description, '')`

func owner(column string) string {
	return `'owner', pg_catalog.pg_get_userbyid(` + column + `)::pg_catalog.text`
}

// names returns an expression for the columns of relation rel with the numbers in an array.
func names(array, rel string) string {
	return `coalesce((SELECT pg_catalog.string_agg(coalesce((SELECT pg_catalog.quote_ident(na.attname) FROM pg_catalog.pg_attribute na WHERE na.attrelid = ` + rel + ` AND na.attnum = nk.num AND nk.num <> 0), '(expression)'), ', ' ORDER BY nk.place)
		FROM pg_catalog.unnest(` + array + `) WITH ORDINALITY nk(num, place)), '')`
}

func yes(condition string) string { return `CASE WHEN ` + condition + ` THEN 'yes' ELSE '' END` }

func joined(array string) string {
	return `CASE WHEN ` + array + ` IS NULL THEN '' ELSE coalesce((SELECT pg_catalog.string_agg(o.o, ', ' ORDER BY o.o COLLATE "C") FROM pg_catalog.unnest(` + array + `) o(o)), '') END`
}

// printed joins what a server prints as p.definition, so that it prints it once.
func printed(expression string) string {
	return ` CROSS JOIN LATERAL (SELECT ` + expression + ` AS definition OFFSET 0) p`
}

// String names the object for messages; the class is not in it.
func (k Key) String() string {
	var parts []string
	for _, p := range []string{k.Schema, k.Table, k.Name} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ".")
}
