package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Names that a role of the source may choose: what a terminal obeys, and what would be a line of
// ours.
var hostile = []string{
	"a\x1b[31mRED\x1b]0;title\a\nmissing  public.forged",
	"b\npgapply: forged\u009b31m\u0085",
	"c\ncutover: verify  differs\u202e\u2066",
	"d\tequal\r\n\u2028x'; rm -rf \"$HOME\" `id` $(id) \\ #",
	"e\"\n\x7f\bpgextract: hint: forged",
}

// forged is a line that such a name would make.
var forged = regexp.MustCompile(`(?m)^\W*(missing +public\.forged|pg\w+: (hint: )?forged|cutover: verify +differs|equal\t?\r?$|31m)`)

// A scanner runs programs, and looks at all that they print.
type scanner struct {
	*pgtest.Env
	t    *testing.T
	seen strings.Builder
}

// scan fails the test if a terminal would obey anything in a text but the line breaks and tabs that
// are ours.
func (s *scanner) scan(what, text string) {
	s.t.Helper()
	s.seen.WriteString(text)
	if !utf8.ValidString(text) {
		s.t.Errorf("%s prints what is no UTF-8: %q", what, text)
	}
	for i, r := range text {
		if r != '\n' && r != '\t' && unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			s.t.Errorf("%s prints %q: %q", what, r, text[max(i-60, 0):min(i+60, len(text))])
			return
		}
	}
	if line := forged.FindString(text); line != "" {
		s.t.Errorf("%s prints the line %q:\n%s", what, line, text)
	}
}

// run runs a program that must end with a status, any but 0 if that is −1, and returns all that it
// prints.
func (s *scanner) run(want int, name string, args ...string) string {
	s.t.Helper()
	status, out, errs := s.Run(nil, name, args...)
	what := fmt.Sprintf("%s %.200q", name, args)
	if status != want && (want >= 0 || status == 0) {
		s.t.Errorf("%s: status %d, not %d\n%s%s", what, status, want, out, errs)
	}
	if name == "pgdecode" && len(out) > 0 { // a stream, even when pgdecode fails
		_, out, _ = s.Run(out, "pgapply", "--to", "json")
	}
	s.scan(what, string(out))
	s.scan(what, errs)
	return string(out) + errs
}

func (s *scanner) bash(want int, command string) string {
	s.t.Helper()
	return s.run(want, "bash", "-c", "set -o pipefail; cd '"+pgtest.Root()+"'; "+command)
}

// asRole runs statements as another role.
func asRole(t *testing.T, d *pgtest.DB, role string, sql ...string) {
	t.Helper()
	c, err := pgx.Connect(context.Background(), d.As(role, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, q := range sql {
		if _, err := c.Exec(context.Background(), q, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%v: %q", err, q)
		}
	}
}

func ident(s string) string { return pgx.Identifier{s}.Sanitize() }

// part returns what a pattern's first group finds in a text.
func part(t *testing.T, text, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q is not in\n%s", pattern, text)
	}
	return m[1]
}

// Whatever a role of little right calls its tables, columns, keys and sessions: in a whole
// migration, nothing of it reaches a terminal raw, no line is made by it, and the commands in hints
// can be pasted.
func TestControlCharactersInNames_P11(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	// for roles of our own
	server, other := pgtest.Start(t, pgtest.Source(t).Major), pgtest.Start(t, pgtest.Target(t).Major)
	source, target := server.Database(t, ""), other.Database(t, "")
	s := &scanner{Env: pgtest.NewEnv(t, source, target), t: t}
	s.Vars = []string{"LC_ALL=C.UTF-8"}
	role := "role\x1b[31m\npgapply: forged\u202e"
	source.Exec("CREATE ROLE app LOGIN PASSWORD 'x'", "CREATE ROLE "+ident(role),
		"GRANT "+ident(role)+" TO app", "GRANT CREATE ON DATABASE "+source.Name+" TO app")
	target.Exec("CREATE ROLE app")
	schema := "s\x1b[7m\nmissing  public.forged"
	key := "k\x1b[31m\npgapply: forged\u009b\u202e\t'; rm -rf ~ #\\"
	asRole(t, source, "app", "CREATE SCHEMA "+ident(schema), "GRANT ALL ON SCHEMA "+ident(schema)+" TO "+ident(role))
	for i, name := range hostile {
		asRole(t, source, "app", "SET search_path = "+ident(schema),
			fmt.Sprintf("CREATE TABLE %s (%s text PRIMARY KEY, v int CONSTRAINT %s CHECK (v < 100))",
				ident(name), ident(hostile[(i+1)%5]), ident(hostile[(i+2)%5])),
			fmt.Sprintf("INSERT INTO %s VALUES ('%s', 1)", ident(name), strings.ReplaceAll(key, "'", "''")))
	}
	asRole(t, source, "app", "SET search_path = "+ident(schema),
		"CREATE TABLE "+ident("keyless"+hostile[0])+" (a int)", "CREATE SEQUENCE "+ident(hostile[1]+"_seq"),
		"ALTER SEQUENCE "+ident(hostile[1]+"_seq")+" OWNER TO "+ident(role))
	// A session with such a name, in a transaction that has written.
	app, err := pgx.Connect(context.Background(), source.As("app", "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close(context.Background())
	_, err = app.Exec(context.Background(), "SET application_name = '"+strings.ReplaceAll(hostile[3], "'", "''")+"'")
	if err != nil {
		t.Fatal(err)
	}
	// check, with a prepared transaction.
	gid := strings.ReplaceAll(hostile[0], "'", "''")
	source.Exec("BEGIN; CREATE TABLE prepared (a int); PREPARE TRANSACTION '" + gid + "'")
	s.run(78, "pgcutover", "check", "--slot", "mig")
	source.Exec("ROLLBACK PREPARED '" + gid + "'")
	if out := s.run(78, "pgcutover", "check", "--slot", "mig"); !strings.Contains(out,
		`role\x1b[31m\npgapply: forged\u202e`) || !strings.Contains(out, `\nmissing  public.forged`) {
		t.Errorf("check does not name them:\n%s", out)
	}
	s.run(64, "pgcutover", "check", "--"+hostile[0])
	s.run(64, "pgextract", "--slot", hostile[0])
	s.run(-1, "pgextract", "--table", hostile[0]+"\n")
	s.run(64, "pgapply", hostile[1])
	s.run(64, "bash", script("cutover"), "mig", hostile[2])
	s.run(64, "bash", script("sync"), "-"+hostile[3])
	s.run(-1, "pgdecode", "--slot", "mig", "--confirm-from", "/nonexistent/"+hostile[3])
	for _, format := range []string{"text", "json"} {
		s.run(69, "pgdecode", "--slot", "mig", "--source",
			strings.ReplaceAll(source.URI, source.Name, "x%1b%5b31m%0apgapply:%20forged"), "--log-format", format)
	}
	// The role that owns a sequence is missing on the target: its owner cannot be set.
	if out := s.bash(0, "pgextract --slot mig | pgapply"); !strings.Contains(out, `role "role\x1b[31m`) {
		t.Errorf("the load does not say what could not be created:\n%s", out)
	}
	s.run(0, "pgcutover", "status")
	s.run(0, "pgcutover", "status", "--json")
	s.run(0, "pgcutover", "status", "--get", "tables")

	// A change that does not fit. Its hint can be pasted.
	table := ident(schema) + "." + ident(hostile[0])
	target.Exec("DELETE FROM " + table)
	source.Exec("UPDATE " + table + " SET v = 2")
	s.bash(1, "pgdecode --slot mig --until now | pgapply --log-format json")
	out := s.bash(1, "pgdecode --slot mig --until now | pgapply")
	if got := source.Query(part(t, out, `(SELECT \* FROM .*?)\. To continue`)); !strings.HasSuffix(got, "\t2") {
		t.Errorf("the statement in the hint finds %q", got)
	}
	s.bash(0, "pgdecode --slot mig --until now | pgapply --on-conflict overwrite")
	target.Exec("DELETE FROM "+table, "INSERT INTO "+table+" SELECT * FROM (VALUES ('"+strings.ReplaceAll(key, "'", "''")+"', 2)) v")
	// A column that the target lacks.
	source.Exec("ALTER TABLE "+table+" ADD "+ident(hostile[4])+" int DEFAULT 7", "UPDATE "+table+" SET v = 3")
	out = s.bash(78, "pgdecode --slot mig --until now | pgapply")
	target.Exec(part(t, out, `On the target: (ALTER TABLE .* ADD COLUMN .*?), with the DEFAULT`) + " DEFAULT 7")
	s.bash(0, "pgdecode --slot mig --until now | pgapply")
	// A table that the target lacks. The command in the hint loads it.
	late := "late" + hostile[3]
	asRole(t, source, "app", "SET search_path = "+ident(schema),
		"CREATE TABLE "+ident(late)+" (a int PRIMARY KEY)", "INSERT INTO "+ident(late)+" VALUES (1)")
	for _, args := range [][]string{{"status"}, {"status", "--json"}} {
		s.run(0, "pgcutover", args...)
	}
	for _, args := range [][]string{{"check"}, {"check", "--json"}, {"check", "--sql"}} {
		s.run(1, "pgcutover", args...)
	}
	s.bash(0, "pgcutover status --watch --every 10ms | head -n 60")
	sync := s.Start(nil, nil, "bash", script("sync"), "mig")
	pgtest.Wait(t, 20*time.Second, "the slot is read",
		func() bool { return source.Query("SELECT active FROM pg_replication_slots") == "t" })
	out = s.bash(78, "scripts/cutover mig --yes")
	sync.Kill()
	s.scan("sync", sync.Errors())
	pgtest.Wait(t, 20*time.Second, "nobody reads the slot",
		func() bool { return source.Query("SELECT active FROM pg_replication_slots") == "f" })
	s.bash(0, part(t, out, `While sync is stopped: (pgextract .*)`))
	pgtest.EqualTable(t, source, target, ident(schema)+"."+ident(late))

	// What belongs to a role that the target lacks holds up a cutover, unless each line of it is
	// let pass.
	allow := ""
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9]{8})  `).FindAllStringSubmatch(s.bash(1, "pgcutover missing --slot mig"), -1) {
		allow += " --allow-missing " + m[1]
	}
	// The rows differ, and then they do not.
	target.Exec("UPDATE " + table + " SET v = 9")
	sync = s.Start(nil, nil, "bash", script("sync"), "mig")
	pgtest.Wait(t, 20*time.Second, "the slot is read",
		func() bool { return source.Query("SELECT active FROM pg_replication_slots") == "t" })
	out = s.bash(1, "scripts/cutover mig --yes --verify first"+allow)
	if !strings.Contains(out, `row`+"\t"+`s\x1b[7m\nmissing  public.forged.a\x1b[31m`) {
		t.Errorf("the row that differs is not shown:\n%s", out)
	}
	s.run(0, "pgcutover", "status")
	target.Exec("UPDATE " + table + " SET v = 3")
	s.bash(0, "scripts/cutover mig --yes --switch true"+allow)
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync: status %d", status)
	}
	s.scan("sync", sync.Errors())
	s.run(0, "pgcutover", "status")
	s.bash(0, "scripts/cutover mig --yes")
	pgtest.Equal(t, source, target)
	s.run(0, "pgcutover", "cleanup", "--slot", "mig")
	for _, name := range hostile {
		if !strings.Contains(s.seen.String(), name[:1]+`\`) && !strings.Contains(s.seen.String(), name[:2]) {
			t.Errorf("nothing that was printed has the name %q", name)
		}
	}
}

// The names of an SQL_ASCII source may be no text at all.
func TestBytesInNames_P11(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	const ascii = "ENCODING 'SQL_ASCII' TEMPLATE template0"
	source, target := pgtest.Source(t).Database(t, ascii), pgtest.Target(t).Database(t, ascii)
	s := &scanner{Env: pgtest.NewEnv(t, source, target), t: t}
	name := "x\xff\x9b31m\xe2\x80"
	source.Exec("CREATE TABLE "+ident(name)+" (a text PRIMARY KEY, b int)",
		"INSERT INTO "+ident(name)+" VALUES (convert_from('\\xff9b', 'SQL_ASCII'), 1)")
	slot := "bytes_" + source.Name
	s.run(0, "pgcutover", "check", "--slot", slot)
	s.bash(0, "pgextract --slot "+slot+" | pgapply")
	if out := s.run(0, "pgcutover", "status"); !strings.Contains(out, `public.x\xff\x9b31m\xe2\x80`) {
		t.Errorf("it is not named:\n%s", out)
	}
	s.run(0, "pgcutover", "status", "--json")
	target.Exec("DELETE FROM " + ident(name))
	source.Exec("UPDATE " + ident(name) + " SET b = 2")
	for _, format := range []string{"text", "json"} {
		s.bash(1, "pgdecode --slot "+slot+" --until now | pgapply --log-format "+format)
	}
}
