package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
)

// A locale is the set of rules that a database or a collation compares text by.
type locale struct {
	Provider      string // c (libc), i (ICU), b (builtin)
	Collate       string // LC_COLLATE
	CType         string // LC_CTYPE
	Locale, Rules string // of ICU and builtin
	Version       string // of the library in use now
	Deterministic bool
}

func (l locale) String() string {
	s := "libc"
	switch l.Provider {
	case "i":
		s = "icu"
	case "b":
		s = "builtin"
	}
	if l.Locale != "" {
		s += " " + l.Locale
	}
	if l.Rules != "" {
		s += " with rules " + l.Rules
	}
	if l.Collate != "" || l.CType != "" {
		s += fmt.Sprintf(" (%s, %s)", l.Collate, l.CType)
	}
	if !l.Deterministic {
		s += ", nondeterministic"
	}
	return s
}

// same reports whether two locales have the same rules, whatever their versions.
func (l locale) same(o locale) bool {
	l.Version, o.Version = "", ""
	if l.Provider == "i" && o.Provider == "i" || l.Provider == "b" && o.Provider == "b" {
		l.Collate, o.Collate = "", "" // libc's names, which ICU and builtin do not use
	}
	return l == o
}

// otherVersion reports whether two locales use different library versions, which may compare
// differently.
func (l locale) otherVersion(o locale) bool {
	return l.Version != "" && o.Version != "" && l.Version != o.Version
}

// databaseLocale returns the query for the database's locale.
func databaseLocale(version int) string {
	provider, name, rules, actual := "'c'", "''", "''", "''"
	if version >= 150000 {
		provider, name = "d.datlocprovider::pg_catalog.text", "coalesce(d.daticulocale, '')"
		actual = "coalesce(pg_catalog.pg_database_collation_actual_version(d.oid), '')"
	}
	if version >= 160000 {
		rules = "coalesce(d.daticurules, '')"
	}
	if version >= 170000 {
		name = "coalesce(d.datlocale, '')"
	}
	return `SELECT ` + provider + `, d.datcollate, d.datctype, ` + name + `, ` + rules + `, ` + actual + `, true FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`
}

// collationLocales returns the query for the locales of the collations that match a condition, by
// name.
func collationLocales(version int, condition string) string {
	name, rules, deterministic := "''", "''", "true"
	if version >= 120000 {
		deterministic = "c.collisdeterministic"
	}
	if version >= 150000 {
		name = "coalesce(c.colliculocale, '')"
	}
	if version >= 160000 {
		rules = "coalesce(c.collicurules, '')"
	}
	if version >= 170000 {
		name = "coalesce(c.colllocale, '')"
	}
	if version < 150000 { // ICU's locale is in libc's column
		name = "CASE c.collprovider WHEN 'i' THEN c.collcollate::pg_catalog.text ELSE '' END"
	}
	plain := func(column string) string {
		return "CASE c.collprovider WHEN 'c' THEN coalesce(" + column + "::pg_catalog.text, '') ELSE '' END"
	}
	return `SELECT DISTINCT ON (n.nspname, c.collname) n.nspname, c.collname, c.collprovider::pg_catalog.text, ` + plain("c.collcollate") + `, ` + plain("c.collctype") + `, ` + name + `, ` + rules + `,
		coalesce(pg_catalog.pg_collation_actual_version(c.oid), ''), ` + deterministic + `
		FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
		WHERE c.collencoding IN (-1, (SELECT d.encoding FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) AND c.collprovider <> 'd' AND ` + condition + `
		ORDER BY n.nspname, c.collname, c.collencoding DESC`
}

// used selects the collations that columns, indexes and domains name, except those that are the
// same everywhere.
const used = `c.collname NOT IN ('C', 'POSIX', 'default') AND c.oid IN (SELECT a.attcollation FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class r ON r.oid = a.attrelid
	JOIN pg_catalog.pg_namespace x ON x.oid = r.relnamespace WHERE a.attcollation <> 0 AND NOT a.attisdropped AND x.nspname NOT IN ('information_schema', 'pgsluice') AND x.nspname !~ '^pg_'
	UNION SELECT y.typcollation FROM pg_catalog.pg_type y WHERE y.typtype = 'd')`

// collation compares the rules by which text is sorted and compared: those of the databases and
// those of the columns' collations.
func (c *checker) collation() error {
	var s, t locale
	for _, x := range []struct {
		conn    *pgx.Conn
		version int
		l       *locale
	}{{c.s, c.sv, &s}, {c.t, c.tv, &t}} {
		rows, err := x.conn.Query(c.ctx, databaseLocale(x.version))
		if err != nil {
			return err
		}
		if *x.l, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[locale]); err != nil {
			return err
		}
	}
	switch {
	case !s.same(t):
		c.warn("database-collation", "Create the target with the source's LOCALE_PROVIDER, locale, LC_COLLATE and LC_CTYPE, and TEMPLATE template0, if the order matters.",
			"text is sorted and compared by other rules: collation and character type are %s on the source, %s on the target",
			rules(s), rules(t))
	case s.otherVersion(t):
		c.warn("collation-version", "Indexes are built by the target's version and need nothing. Check what depends on the source's order: ranges of text in partitions, and reports.",
			"both databases have the collation and character type %s, of version %s on the source and %s on the target: some text may be sorted otherwise",
			rules(s), s.Version, t.Version)
	default:
		c.ok("database-collation", "both databases have the collation and character type %s", rules(s))
	}
	return c.collations()
}

// rules names a database's locale. libc's keeps its established format.
func rules(l locale) string {
	if l.Provider == "c" {
		return l.Collate + ", " + l.CType
	}
	return l.String()
}

// collations compares the collations of the columns.
func (c *checker) collations() error {
	type collation struct {
		Schema, Name string
		locale
	}
	scan := func(row pgx.CollectableRow) (x collation, err error) {
		err = row.Scan(&x.Schema, &x.Name, &x.Provider, &x.Collate, &x.CType, &x.Locale, &x.Rules, &x.Version, &x.Deterministic)
		return x, err
	}
	rows, err := c.s.Query(c.ctx, collationLocales(c.sv, used))
	if err != nil {
		return c.m.Source.Explain(err)
	}
	source, err := pgx.CollectRows(rows, scan)
	if err != nil || len(source) == 0 {
		return c.m.Source.Explain(err)
	}
	var names []string
	for _, x := range source {
		names = append(names, x.Name)
	}
	if rows, err = c.t.Query(c.ctx, collationLocales(c.tv, "c.collname = ANY ($1)"), names); err != nil {
		return err
	}
	target, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return err
	}
	var missing, other, versions []string
	for _, x := range source {
		i := slices.IndexFunc(target, func(y collation) bool { return y.Schema == x.Schema && y.Name == x.Name })
		switch {
		case i < 0 && x.Schema == "pg_catalog":
			missing = append(missing, x.Name+": "+x.String())
		case i < 0: // the load creates it with the schema
		case !x.same(target[i].locale):
			other = append(other, fmt.Sprintf("%s.%s: %v on the source, %v on the target", x.Schema, x.Name, x.locale, target[i].locale))
		case x.otherVersion(target[i].locale):
			versions = append(versions, fmt.Sprintf("%s.%s: %s on the source, %s on the target", x.Schema,
				x.Name, x.Version, target[i].Version))
		}
	}
	if len(missing) > 0 {
		c.need("collations-missing", "Install the locales on the target's host, then import them; or give the columns another collation on the source.",
			"columns have collations that the target does not have: %s", strings.Join(missing, "; ")).
			do("target", superuser, "SELECT pg_catalog.pg_import_system_collations('pg_catalog');")
	}
	if len(other) > 0 {
		c.warn("column-collations", "Check whether the order of these columns matters: range partitions, unique indexes, reports.",
			"the target has other rules for %s of columns: %s", count.Of(len(other), "collation"),
			strings.Join(other, "; "))
	}
	if len(versions) > 0 {
		c.warn("column-collation-versions", "Indexes are built by the target's version and need nothing. Check what depends on the source's order: ranges of text in partitions, and reports.",
			"the target has another version of %s of columns: %s", count.Of(len(versions), "collation"), strings.Join(versions, "; "))
	}
	return nil
}
