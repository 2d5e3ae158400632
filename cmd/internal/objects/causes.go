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

// A Cause is what several objects could not be created for.
type Cause struct {
	// Says is the cause in words, and Remedy what mends it: statements for the target, to be
	// executed by a role that may. It is empty where there is none that is known.
	Says, Remedy string
	Objects      []progress.Object // those that failed by themselves first
}

// Causes groups objects that could not be created by what they could not be created for, in the
// order of the first of each group. It asks the target, in the session of the role that creates
// them, which of the roles that they name are missing, or not granted.
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
	at := make(map[string]int)   // cause → index
	of := make(map[int64]int)    // object → index
	var behind []progress.Object // those that failed because of another
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

// A lack says what is wrong with a role: it is missing, or not granted to ours.
type lack struct{ says, remedy string }

// lackingRoles finds those of the roles in statements that the target does not have, or that our
// role may not give things to.
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
	// From 16 on, membership alone is not enough: the role must be able to take the other, and to
	// act with its rights.
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

// causeOf returns why an object failed that did so by itself.
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
	if l, ok := denied[o.ID]; ok {
		return Cause{Says: l.says, Remedy: l.remedy}
	}
	// What nobody can be granted, a role with more rights has to do.
	if isDenied(o) || o.Type == "EXTENSION" {
		return Cause{Says: says, Remedy: strings.TrimSpace(o.SQL)}
	}
	return Cause{Says: says}
}

// some is how many objects of a cause are named.
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

// Text lists causes, a line for each, and the remedies of those that have one.
func Text(list []Cause) (each, remedies string) {
	var lines, sqls []string
	for _, c := range list {
		lines = append(lines, c.String())
		if c.Remedy != "" {
			sqls = append(sqls, c.Remedy)
		}
	}
	const most = 5
	if len(sqls) > most {
		sqls = append(sqls[:most], "…")
	}
	return strings.Join(lines, "\n"), text.Escape(strings.Join(sqls, " "))
}
