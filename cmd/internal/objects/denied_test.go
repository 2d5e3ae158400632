package objects

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// What a role may not create, it may when the remedies have been executed, which give it rights and
// create nothing.
func TestDeniedRemedies_C6(t *testing.T) {
	d := pgtest.Target(t).Database(t, "")
	me, owner := `me "`+d.Name+`"`, "owner_"+d.Name
	id := func(name string) string { return pgx.Identifier{name}.Sanitize() }
	execute := "EXECUTE PROCEDURE"
	d.Exec("CREATE ROLE "+id(me)+" LOGIN", "CREATE ROLE "+owner, "CREATE SCHEMA app AUTHORIZATION "+owner, "CREATE SCHEMA mine AUTHORIZATION "+id(me), "SET ROLE "+id(me)+"; CREATE TABLE mine.c (a int)",
		"SET ROLE "+owner+`; CREATE TABLE app."T 1" (id int PRIMARY KEY); CREATE TABLE app.other (id int); CREATE TYPE app.kind AS ENUM ('x'); CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
		REVOKE ALL ON FUNCTION app.f() FROM PUBLIC; REVOKE ALL ON TYPE app.kind FROM PUBLIC`)
	t.Cleanup(func() { d.Exec("DROP OWNED BY "+id(me)+", "+owner, "DROP ROLE "+id(me), "DROP ROLE "+owner) })
	list := []progress.Object{
		{Type: "TABLE", Schema: "app", Name: "x", SQL: "CREATE TABLE app.x (a app.kind);"},
		{Type: "TABLE", Schema: "mine", Name: "k", SQL: "CREATE TABLE mine.k (a app.kind);"},
		{Type: "MATERIALIZED VIEW", Schema: "mine", Name: "m", SQL: `CREATE MATERIALIZED VIEW mine.m AS SELECT x.id FROM app."T 1" x;`},
		{Type: "FK CONSTRAINT", Schema: "mine", Table: "c", Name: "c fk", SQL: `ALTER TABLE ONLY mine.c ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES app."T 1"(id);`},
		{Type: "TRIGGER", Schema: "mine", Table: "c", Name: "c g", SQL: "CREATE TRIGGER g BEFORE INSERT ON mine.c FOR EACH ROW " + execute + " app.f();"},
		{Type: "INDEX", Schema: "app", Table: "other", Name: "i", SQL: "CREATE INDEX i ON app.other USING btree (id);"},
		{Type: "ACL", Schema: "app", Name: "FUNCTION f()", SQL: "GRANT ALL ON FUNCTION app.f() TO PUBLIC;"},
		{Type: "COMMENT", Name: "SCHEMA app", SQL: "COMMENT ON SCHEMA app IS 'x';"},
	}
	c, err := pgx.Connect(pgtest.Context(t), d.As(url.PathEscape(me), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for round := 0; len(list) > 0; round++ {
		var left []progress.Object
		for i := range list {
			o := list[i]
			_, err := c.Exec(pgtest.Context(t), o.SQL)
			var pg *pgconn.PgError
			if err == nil {
				continue
			}
			if !errors.As(err, &pg) || pg.Code != "42501" || round == 3 {
				t.Fatalf("%v: %v", &o, err)
			}
			o.ID, o.Error, o.Code = int64(i+1), err.Error(), pg.Code
			left = append(left, o)
		}
		if list = left; len(list) == 0 {
			break
		}
		causes, err := Causes(pgtest.Context(t), c, list)
		if err != nil {
			t.Fatal(err)
		}
		for _, cause := range causes {
			if !strings.HasPrefix(cause.Remedy, "GRANT ") || strings.Contains(cause.Remedy, "PUBLIC") {
				t.Errorf("%v\nremedy: %s", cause, cause.Remedy)
			}
			if round == 0 && strings.Contains(cause.Remedy, "GRANT "+id(owner)) {
				continue // the smaller rights first
			}
			d.Exec(cause.Remedy)
		}
	}
}
