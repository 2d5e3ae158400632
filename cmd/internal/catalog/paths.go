package catalog

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A PathBound is a function that depends on its caller's search path, and that some object uses.
// PostgreSQL's own tools create or check such an object with an empty search path, so the function
// fails.
type PathBound struct {
	Signature string // as ALTER FUNCTION expects it
	Owner     string
	Names     []string // names that the search path resolves
	Schemas   []string // schemas of those names
	UsedBy    []string
	Needed    bool // without it, rows cannot be loaded or an object cannot be created
}

// Statement returns the statement that sets a search path for the function.
func (p *PathBound) Statement() string {
	quoted := make([]string, len(p.Schemas))
	for i, s := range p.Schemas {
		quoted[i] = text.Ident(s)
	}
	return "ALTER FUNCTION " + p.Signature + " SET search_path = " + strings.Join(append([]string{"pg_catalog"}, quoted...), ", ") + ";"
}

// A body is a function whose source text is read. It is never called.
type body struct {
	OID                     uint32
	Schema, Name, Signature string
	Owner, Source           string
	Bound                   bool // it has no search path setting of its own
}

// token matches the relevant parts of a function body: comments and strings, which are skipped, and
// names with what surrounds them.
var token = regexp.MustCompile(`(?s)--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|("(?:[^"]|"")+"|[\pL_][\pL\pN_$]*)(\s*\.\s*("(?:[^"]|"")+"|[\pL_][\pL\pN_$]*))?(\s*\()?`)

// userSchema is true of namespaces (n) that do not belong to the system.
const userSchema = `n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_'`

// PathBoundFunctions returns the functions in SQL and PL/pgSQL that generated columns, defaults,
// checks, index expressions, materialized views and policies use, and that mention names which an
// empty search path does not resolve. It only reads the functions' text and calls nothing.
func PathBoundFunctions(ctx context.Context, c *pgx.Conn) ([]PathBound, error) {
	used, err := functionUses(ctx, c)
	if err != nil || len(used) == 0 {
		return nil, err
	}
	list, err := bodies(ctx, c)
	if err != nil {
		return nil, err
	}
	places, err := unqualifiedNames(ctx, c)
	if err != nil {
		return nil, err
	}
	w := pathWalk{places: places, byName: make(map[string][]*body), seen: make(map[uint32]bool)}
	for i := range list {
		w.byName[list[i].Name] = append(w.byName[list[i].Name], &list[i])
	}
	for i := range list {
		if b := &list[i]; used[b.OID] != nil {
			w.visit(b, used[b.OID])
		}
	}
	slices.SortFunc(w.found, func(a, b PathBound) int { return strings.Compare(a.Signature, b.Signature) })
	return w.found, nil
}

// A use lists what uses a function.
type use struct {
	by   []string
	must bool // at least one use fails without the function
}

// functionUses returns the uses of each function, by its OID. A use of an operator counts as a use
// of its function.
func functionUses(ctx context.Context, c *pgx.Conn) (map[uint32]*use, error) {
	rows, err := c.Query(ctx, `SELECT coalesce(o.oprcode::pg_catalog.oid, d.refobjid), pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid),
			d.classid NOT IN ('pg_catalog.pg_policy'::pg_catalog.regclass, 'pg_catalog.pg_attrdef'::pg_catalog.regclass) OR EXISTS (SELECT FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_attribute a
				ON a.attrelid = f.adrelid AND a.attnum = f.adnum WHERE f.oid = d.objid AND d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND pg_catalog.to_jsonb(a) ->> 'attgenerated' <> '')
		FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.refobjid
		WHERE d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass) AND d.refobjid >= 16384
		AND (d.classid IN ('pg_catalog.pg_attrdef'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass, 'pg_catalog.pg_policy'::pg_catalog.regclass)
			OR d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
			OR d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND EXISTS (SELECT FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class v ON v.oid = w.ev_class WHERE w.oid = d.objid AND v.relkind = 'm'))
		ORDER BY 1, 2`)
	if err != nil {
		return nil, err
	}
	used := make(map[uint32]*use)
	var oid uint32
	var by string
	var must bool
	_, err = pgx.ForEachRow(rows, []any{&oid, &by, &must}, func() error {
		if used[oid] == nil {
			used[oid] = new(use)
		}
		used[oid].by = append(used[oid].by, by)
		used[oid].must = used[oid].must || must
		return nil
	})
	return used, err
}

// bodies reads the functions in user schemas.
func bodies(ctx context.Context, c *pgx.Conn) ([]body, error) {
	rows, err := c.Query(ctx, `SELECT p.oid, n.nspname, p.proname, pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)), pg_catalog.pg_get_userbyid(p.proowner),
			CASE WHEN l.lanname IN ('sql', 'plpgsql') THEN p.prosrc ELSE '' END, NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) x WHERE x ~ '^search_path=')
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE `+userSchema+` ORDER BY p.oid`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[body])
}

// unqualifiedNames returns the names of functions (f), relations (r) and types (t) that only a
// search path can resolve, with the schemas that contain them. It excludes functions of PostgreSQL
// itself, because pg_catalog is searched first.
func unqualifiedNames(ctx context.Context, c *pgx.Conn) (map[string]map[string][]string, error) {
	rows, err := c.Query(ctx, `SELECT x.kind, x.name, x.nspname FROM (
			SELECT 'f' AS kind, p.proname AS name, n.nspname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE `+userSchema+`
				AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc q WHERE q.proname = p.proname AND q.pronamespace = 'pg_catalog'::pg_catalog.regnamespace)
			UNION SELECT 'r', c.relname, n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND `+userSchema+`
			UNION SELECT 't', y.typname, n.nspname FROM pg_catalog.pg_type y JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace WHERE y.typtype IN ('b', 'd', 'e', 'r') AND y.typelem = 0 AND `+userSchema+`
		) x ORDER BY 1, 2, 3`)
	if err != nil {
		return nil, err
	}
	places := map[string]map[string][]string{"f": {}, "r": {}, "t": {}}
	var kind, name, schema string
	_, err = pgx.ForEachRow(rows, []any{&kind, &name, &schema}, func() error {
		places[kind][name] = append(places[kind][name], schema)
		return nil
	})
	return places, err
}

// A pathWalk follows functions to the functions that they call. What uses the caller also uses the
// called function.
type pathWalk struct {
	places map[string]map[string][]string
	byName map[string][]*body
	seen   map[uint32]bool
	found  []PathBound
}

func (w *pathWalk) visit(b *body, u *use) {
	if w.seen[b.OID] {
		return
	}
	w.seen[b.OID] = true
	p := PathBound{Signature: b.Signature, Owner: b.Owner, UsedBy: u.by, Needed: u.must}
	for _, called := range mentions(b, w.places, &p) {
		if !b.Bound && !called.qualified {
			continue // the caller's own search path resolves it
		}
		for _, f := range w.byName[called.name] {
			w.visit(f, u)
		}
	}
	if b.Bound && len(p.Names) > 0 {
		w.found = append(w.found, p)
	}
}

// A call is a call of a function in a body.
type call struct {
	name      string
	qualified bool
}

// mentions adds to p the names in a body that a search path resolves, and returns the functions
// that the body calls.
func mentions(b *body, places map[string]map[string][]string, p *PathBound) (calls []call) {
	add := func(name string, schemas []string) {
		if slices.Contains(p.Names, name) {
			return
		}
		p.Names = append(p.Names, name)
		s := schemas[0]
		if slices.Contains(schemas, b.Schema) {
			s = b.Schema
		}
		if !slices.Contains(p.Schemas, s) {
			p.Schemas = append(p.Schemas, s)
		}
	}
	before := ""
	for _, m := range token.FindAllStringSubmatchIndex(b.Source, -1) {
		if m[2] < 0 {
			continue
		}
		first := unquoteName(b.Source[m[2]:m[3]])
		paren := m[8] >= 0
		qualified := m[6] >= 0
		if qualified {
			if paren {
				calls = append(calls, call{unquoteName(b.Source[m[6]:m[7]]), true})
			}
			before = ""
			continue
		}
		cast := strings.HasSuffix(strings.TrimRight(b.Source[:m[2]], " \t\r\n"), "::")
		member := strings.HasSuffix(strings.TrimRight(b.Source[:m[2]], " \t\r\n"), ".")
		switch {
		case member:
		case paren && places["f"][first] != nil:
			calls = append(calls, call{first, false})
			add(first, places["f"][first])
		case places["r"][first] != nil && slices.Contains([]string{"from", "join", "into", "update", "only", "table"}, before):
			add(first, places["r"][first])
		case places["t"][first] != nil && (cast || before == "as" || before == "returns" || paren):
			add(first, places["t"][first])
		}
		before = strings.ToLower(first)
	}
	return calls
}

// unquoteName returns the name that an SQL identifier stands for.
func unquoteName(s string) string {
	if inner, ok := strings.CutPrefix(s, `"`); ok {
		return strings.ReplaceAll(strings.TrimSuffix(inner, `"`), `""`, `"`)
	}
	return strings.ToLower(s)
}
