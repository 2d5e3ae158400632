package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A moved is a pair whose roles were made by what pgcutover roles prints.
type moved struct {
	*pgtest.Env
	t              *testing.T
	source, target *pgtest.DB
	role           string
	grants         map[string][]string // by side, the statements
}

// toMove returns a pair of databases with an owner each for the database and for tables, and things
// that belong to superusers.
func toMove(t *testing.T, source, target *pgtest.DB) *moved {
	t.Helper()
	m := &moved{Env: pgtest.NewEnv(t, source, target), t: t, source: source, target: target, role: "mover " + source.Name,
		grants: make(map[string][]string)}
	owner, other := "owner "+source.Name, "other_"+source.Name
	schema := strings.NewReplacer("$owner", `"`+owner+`"`, "$other", other)
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec(schema.Replace("CREATE ROLE $owner"), schema.Replace("CREATE ROLE $other"), schema.Replace("ALTER DATABASE "+d.Name+" OWNER TO $owner"),
			"REVOKE ALL ON SCHEMA public FROM PUBLIC")
		t.Cleanup(func() {
			d.Exec("ALTER DATABASE "+d.Name+" OWNER TO postgres", schema.Replace("DROP OWNED BY $owner, $other"), schema.Replace("DROP ROLE $owner, $other"))
		})
	}
	source.Exec(schema.Replace(`GRANT CREATE, USAGE ON SCHEMA public TO $owner, $other; SET ROLE $owner; CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v text);
			CREATE TABLE app.forced (id int PRIMARY KEY); ALTER TABLE app.forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`),
		schema.Replace(`SET ROLE $other; CREATE TABLE public."T 2" (id int PRIMARY KEY); INSERT INTO public."T 2" VALUES (1)`),
		"CREATE SCHEMA hidden; CREATE SEQUENCE hidden.numbers; SELECT lo_create(1)")
	return m
}

// print returns the statements that pgcutover roles prints. A comment is not one.
func (m *moved) print(side string, args ...string) (list []string) {
	m.t.Helper()
	out := m.Must(nil, "pgcutover", append([]string{"roles", "--side", side, "--role", m.role, "--source", m.source.URI, "--target", m.target.URI}, args...)...)
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "--") {
			list = append(list, line)
		}
	}
	return list
}

// make makes the roles.
func (m *moved) make() {
	m.t.Helper()
	for _, side := range []string{"source", "target"} {
		m.grants[side] = m.print(side)
		m.on(side).Exec(m.grants[side]...)
	}
	m.t.Cleanup(m.drop)
	user := strings.ReplaceAll(m.role, " ", "%20")
	m.Source, m.Target = m.source.As(user, ""), m.target.As(user, "")
}

// drop takes everything back.
func (m *moved) drop() {
	for _, side := range []string{"source", "target"} {
		if m.on(side).Query("SELECT count(*) FROM pg_roles WHERE rolname = '"+m.role+"'") == "1" {
			m.on(side).Exec(m.print(side, "--drop")...)
		}
	}
}

func (m *moved) on(side string) *pgtest.DB {
	if side == "target" {
		return m.target
	}
	return m.source
}

// check runs pgcutover check, and returns its report and what of it is to be pasted.
func (m *moved) check() (string, []string) {
	m.t.Helper()
	_, out, said := m.Run(nil, "pgcutover", "check", "--slot", m.source.Name)
	var sql []string
	for _, p := range statements(string(out)) {
		sql = append(sql, p.sql...)
	}
	return string(out) + said, sql
}

// rights returns the rights of roles in a database and on its server, one a line.
func rights(d *pgtest.DB) string {
	parameters := ""
	if d.Major >= 15 {
		parameters = "UNION ALL SELECT 'parameter', parname, paracl FROM pg_parameter_acl"
	}
	return d.Query(`SELECT x.kind, x.name, a.privilege_type, CASE a.grantee WHEN 0 THEN 'public' ELSE a.grantee::regrole::text END FROM (
		SELECT 'relation', oid::regclass::text, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM pg_class
			WHERE relkind IN ('r', 'p', 'S') AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
		UNION ALL SELECT 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname !~ '^pg_'
		UNION ALL SELECT 'large object', oid::text, coalesce(lomacl, acldefault('L', lomowner)) FROM pg_largeobject_metadata
		UNION ALL SELECT 'database', datname, coalesce(datacl, acldefault('d', datdba)) FROM pg_database WHERE datname = current_database() ` + parameters + `
		) x(kind, name, acl), aclexplode(x.acl) a
		UNION ALL SELECT 'member of', roleid::regrole::text, '', member::regrole::text FROM pg_auth_members WHERE member::regrole::text ~ '` + d.Name + `'
		ORDER BY 1, 2, 3, 4`)
}

// The roles that pgcutover roles prints suffice: check is silent. Without any single grant, check
// names it, and prints the very statement that gives it back. What is printed with --drop leaves
// nothing.
func TestRolesEachGrant(t *testing.T) {
	pgtest.Slow(t)
	for _, version := range versionsOfRoles() {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t)
			if version != 0 {
				source, target = pgtest.Start(t, version).Database(t, ""), pgtest.Start(t, version).Database(t, "")
			}
			m := toMove(t, source, target)
			before := map[string]string{"source": rights(source), "target": rights(target)}
			m.make()
			if out, sql := m.check(); len(sql) > 0 {
				t.Fatalf("with all grants, check prints %q\n%s\nof\n%v", sql, out, m.grants)
			}
			const sample = 2
			for _, side := range []string{"source", "target"} {
				list := slices.Clone(m.grants[side])
				if !pgtest.Full() {
					rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
					list = list[:min(len(list), sample+1)]
				}
				for _, grant := range list {
					if strings.HasPrefix(grant, "CREATE ROLE") {
						continue
					}
					m.on(side).Exec(undo(t, grant))
					if out, sql := m.check(); !slices.Contains(sql, grant) {
						t.Errorf("%s: without %q, check prints %q\n%s", side, grant, sql, out)
					}
					m.on(side).Exec(grant)
				}
			}
			if out, sql := m.check(); len(sql) > 0 {
				t.Errorf("in the end, check prints %q\n%s", sql, out)
			}
			m.drop()
			// the owners keep what their application may need
			kept := regexp.MustCompile("\nschema\tpublic\t(CREATE|USAGE)\t(other_|\"owner )[^\n]*")
			for side, was := range before {
				is := rights(m.on(side))
				if side == "target" {
					is = kept.ReplaceAllString(is, "")
				}
				if is != was {
					t.Errorf("%s: the rights were\n%s\nand are\n%s", side, was, is)
				}
			}
		})
	}
}

// Each service has its own way to allow replication. Nothing is executed, whatever is printed.
func TestRolesProviders(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := toMove(t, source, target)
	before := rights(source)
	const attribute, member = "REPLICATION;", `GRANT "rds_replication" TO`
	for _, c := range []struct{ provider, want, not string }{
		{"plain", attribute, member}, {"rds", member, attribute}, {"aurora", member, attribute}, {"azure", attribute, member},
		{"cloudsql", attribute, member}, {"alloydb", attribute, member}, {"neon", attribute, member}, {"supabase", attribute, member},
		{"heroku", "GRANT pg_signal_backend TO", attribute}, {"heroku", "GRANT pg_signal_backend TO", "CREATE ROLE"},
	} {
		out := strings.Join(m.print("source", "--provider", c.provider), "\n")
		if !strings.Contains(out, c.want) || strings.Contains(out, c.not) || strings.Contains(strings.ToLower(out), "password") {
			t.Errorf("%s:\n%s", c.provider, out)
		}
	}
	if now := rights(source); now != before || source.Query("SELECT count(*) FROM pg_roles WHERE rolname = '"+m.role+"'") != "0" {
		t.Errorf("something was executed:\n%s\n%s", before, now)
	}
	source.Exec("CREATE SCHEMA heroku_ext")
	if out := m.print("source"); slices.ContainsFunc(out, func(s string) bool { return strings.HasPrefix(s, "CREATE ROLE") }) {
		t.Errorf("Heroku was not recognized:\n%v", out)
	}
	status, _, errs := m.Run(nil, "pgcutover", "roles", "--side", "source", "--source", source.URI, "--role", "nobody here", "--drop")
	if status != 69 || !strings.Contains(errs, "nobody here") {
		t.Errorf("status %d\n%s", status, errs)
	}
}

// No name of a role or an owner becomes a statement, in a comment or elsewhere.
func TestRolesHostileNames_P11(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := &moved{Env: pgtest.NewEnv(t, source, target), t: t, source: source, target: target}
	m.role = "a\"b'\n; CREATE ROLE stolen_" + source.Name + "; --\\"
	boss := "boss\n; CREATE ROLE stolen_" + source.Name + "; --"
	quoted := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	owner := m.role + "2"
	source.Exec("CREATE ROLE "+quoted(owner), "CREATE ROLE "+quoted(boss)+" SUPERUSER", "ALTER DATABASE "+source.Name+" OWNER TO "+quoted(owner),
		"CREATE TABLE t (id int PRIMARY KEY)", "ALTER TABLE t OWNER TO "+quoted(boss))
	t.Cleanup(func() {
		source.Exec("ALTER DATABASE "+source.Name+" OWNER TO postgres", "DROP TABLE t",
			"DROP OWNED BY "+quoted(owner), "DROP ROLE "+quoted(owner), "DROP ROLE "+quoted(boss))
	})
	print := func(args ...string) string {
		return string(m.Must(nil, "pgcutover", append([]string{"roles", "--side", "source", "--role", m.role}, args...)...))
	}
	source.Exec(print())
	if n := source.Query("SELECT count(*) FROM pg_auth_members WHERE pg_get_userbyid(member) = " + literal(m.role) + " AND pg_get_userbyid(roleid) = " + literal(owner)); n != "1" {
		t.Errorf("%s memberships\n%s", n, print())
	}
	source.Exec(print("--drop"))
	if n := source.Query("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'stolen%' OR rolname = " + literal(m.role)); n != "0" {
		t.Errorf("%s roles too many\n%s", n, print())
	}
}

func literal(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

func versionsOfRoles() []int {
	if pgtest.Full() && os.Getenv("PGSLUICE_TEST_SOURCE") == "" {
		return []int{10, 13, 15, 16, 18}
	}
	return []int{0}
}

var grantTo = regexp.MustCompile(`^GRANT (.*) TO ("[^"]*")( WITH .*)?;$`)

// undo returns the statement that takes a grant away.
func undo(t *testing.T, grant string) string {
	t.Helper()
	if m := grantTo.FindStringSubmatch(grant); m != nil {
		return "REVOKE " + m[1] + " FROM " + m[2]
	}
	if role, attribute, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(grant, "ALTER ROLE "), ";"), `" `); ok {
		return "ALTER ROLE " + role + `" NO` + attribute
	}
	t.Fatalf("how is %q undone?", grant)
	return ""
}
