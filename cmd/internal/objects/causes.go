package objects

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A Cause is a common reason why several objects could not be created.
type Cause struct {
	// Says describes the cause. Remedy has the statements that remove it: a role with sufficient
	// rights must execute them on the target. Remedy is empty if no remedy is known.
	Says, Remedy string
	Objects      []progress.Object // objects that failed on their own come first
}

// Causes groups the objects that could not be created by cause, in the order of the first object of
// each group. It uses the target session of the role that creates the objects, and checks which of
// the roles that the objects name are missing or not granted.
func Causes(ctx context.Context, c *pgx.Conn, list []progress.Object) ([]Cause, error) {
	lacking, err := lackingRoles(ctx, c, list)
	if err != nil {
		return nil, err
	}
	denied, err := deniedRights(ctx, c, list)
	if err != nil {
		return nil, err
	}
	var causes []Cause
	at := make(map[string]int)   // cause → index in causes
	of := make(map[int64]int)    // object → index in causes
	var behind []progress.Object // objects that failed because of another
	add := func(key string, cause Cause, o progress.Object) {
		i, known := at[key]
		if !known {
			i = len(causes)
			at[key] = i
			causes = append(causes, cause)
		} else if !strings.Contains(causes[i].Remedy, cause.Remedy) {
			causes[i].Remedy += "\n" + cause.Remedy
		}
		causes[i].Objects = append(causes[i].Objects, o)
		of[o.ID] = i
	}
	failing := make(map[int64]bool)
	for _, o := range list {
		failing[o.ID] = true
	}
	for _, o := range list {
		if o.Because != 0 && failing[o.Because] {
			behind = append(behind, o)
			continue
		}
		cause := causeOf(&o, lacking, denied, c.Config().Database, c.Config().User)
		if f := progress.FunctionOf(o.Error); f != "" && cause.Remedy == "" {
			if cause.Remedy, err = ownPath(ctx, c, f); err != nil {
				return nil, err
			}
		}
		key := cause.Says
		if cause.Remedy == "" {
			key += "\x00" + o.Code
		}
		add(key, cause, o)
	}
	for _, o := range behind {
		if i, known := of[o.Because]; known {
			causes[i].Objects = append(causes[i].Objects, o)
		}
	}
	return causes, nil
}

// A lack is a role that is missing, or that is not granted to the session's role.
type lack struct{ says, remedy string }

// lackingRoles returns the roles named in statements that the target does not have, or that the
// session's role may not give objects to.
func lackingRoles(ctx context.Context, c *pgx.Conn, list []progress.Object) (map[string]lack, error) {
	var names []string
	for i := range list {
		for _, n := range roles(&list[i]) {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	// From 16 on, membership alone is not enough: the role must be able to SET ROLE to the other
	// role, and must inherit its rights.
	member := "pg_catalog.pg_has_role(r.oid, 'MEMBER')"
	with := ""
	if pgdial.Version(c.PgConn()) >= 160000 {
		member, with = "pg_catalog.pg_has_role(r.oid, 'SET') AND pg_catalog.pg_has_role(r.oid, 'USAGE')", " WITH INHERIT TRUE, SET TRUE"
	}
	rows, err := c.Query(ctx, "SELECT n, r.oid IS NOT NULL, coalesce("+member+
		", false), current_user FROM pg_catalog.unnest($1::pg_catalog.text[]) n LEFT JOIN pg_catalog.pg_roles r ON r.rolname = n", names)
	if err != nil {
		return nil, err
	}
	lacking := make(map[string]lack)
	var name, me string
	var there, may bool
	_, err = pgx.ForEachRow(rows, []any{&name, &there, &may, &me}, func() error {
		switch {
		case !there:
			lacking[name] = lack{fmt.Sprintf("role %q does not exist on the target", name), "CREATE ROLE " + text.Ident(name) + ";"}
		case !may:
			lacking[name] = lack{fmt.Sprintf("role %q is not a member of role %q, or may not act as it", me,
				name), "GRANT " + text.Ident(name) + " TO " + text.Ident(me) + with + ";"}
		}
		return nil
	})
	return lacking, err
}

// causeOf returns the cause of an object that failed on its own.
func causeOf(o *progress.Object, lacking map[string]lack, denied map[int64]lack, database, me string) Cause {
	for _, n := range roles(o) {
		l, ok := lacking[n]
		missing := strings.HasPrefix(l.remedy, "CREATE")
		if ok && (missing && (o.Code == "42704" || o.Code == "22023") || !missing && o.Code == "42501" && o.Type != "ACL") {
			return Cause{Says: l.says, Remedy: l.remedy}
		}
	}
	says := o.Error
	if o.Code == "42501" && o.Type == "SCHEMA" {
		return Cause{Says: says, Remedy: "GRANT CREATE ON DATABASE " + text.Ident(database) + " TO " + text.Ident(me) + ";"}
	}
	if o.Code == "53400" && strings.Contains(o.Error, "temp_file_limit") {
		return Cause{Says: says, Remedy: "ALTER ROLE " + text.Ident(me) + " IN DATABASE " + text.Ident(database) + " SET temp_file_limit = -1;"}
	}
	if l, ok := denied[o.ID]; ok {
		return Cause{Says: l.says, Remedy: l.remedy}
	}
	// If no grant can help, a role with more rights must execute the statement.
	if isDenied(o) || o.Type == "EXTENSION" {
		return Cause{Says: says, Remedy: strings.TrimSpace(o.SQL)}
	}
	return Cause{Says: says}
}

// some is the maximum number of objects that String names.
const some = 3

// String says what could not be created, and why.
func (c Cause) String() string {
	var names []string
	for i := range c.Objects[:min(len(c.Objects), some)] {
		names = append(names, c.Objects[i].String())
	}
	s := strings.Join(names, ", ")
	if n := len(c.Objects) - some; n > 0 {
		s += fmt.Sprintf(" and %s", count.Of(n, "other object"))
	}
	return text.Escape(s + ": " + c.Says)
}

// Text returns the causes, one per line, and the remedies of those that have one. A remedy that
// does not fit on one line, such as a function, is left out.
func Text(list []Cause) (each, remedies string) {
	var lines, sqls []string
	left := false
	for _, c := range list {
		lines = append(lines, c.String())
		if sql := rules.OneLine(c.Remedy); sql != "" {
			sqls = append(sqls, sql)
		} else if c.Remedy != "" {
			left = true
		}
	}
	const most = 5
	if len(sqls) > most || left && len(sqls) > 0 {
		sqls = append(sqls[:min(most, len(sqls))], "…")
	}
	return strings.Join(lines, "\n"), text.Escape(strings.Join(sqls, " "))
}
