package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// A fkey is a foreign key of the target that is not validated. Table is the table's name as SQL
// writes it.
type fkey struct{ Name, Table string }

func (k fkey) validate() string {
	return "ALTER TABLE ONLY " + k.Table + " VALIDATE CONSTRAINT " + pgx.Identifier{k.Name}.Sanitize() + ";"
}

// The invalid are the foreign keys that could not be validated.
type invalid struct {
	says    []string
	orphans bool
	hidden  []fkey   // keys of tables whose policies also apply to their owner
	forced  []string // the names of those tables
}

// add adds a key that the server refused to validate.
func (i *invalid) add(ctx context.Context, t *pgx.Conn, k fkey, refused error) error {
	var pg *pgconn.PgError
	if errors.As(refused, &pg) && pg.Code == "23503" {
		i.orphans = true
		i.says = append(i.says, fmt.Sprintf("%s of %s: %s", k.Name, k.Table, pg.Detail))
		return nil
	}
	i.says = append(i.says, fmt.Sprintf("%s of %s: %v", k.Name, k.Table, refused))
	if pg == nil || pg.Code != "42501" {
		return nil
	}
	rows, err := t.Query(ctx, `SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid IN (k.conrelid, k.confrelid)
		WHERE k.conname = $1 AND k.conrelid = $2::pg_catalog.text::pg_catalog.regclass AND pg_catalog.row_security_active(c.oid)`, k.Name, k.Table)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) == 0 {
		return err
	}
	i.hidden = append(i.hidden, k)
	for _, name := range tables {
		if !slices.Contains(i.forced, name) {
			i.forced = append(i.forced, name)
		}
	}
	return nil
}

// fault returns the cutover's error for these keys, or nil if there are none.
func (i *invalid) fault(slot string) error {
	n := len(i.says)
	if n == 0 {
		return nil
	}
	status, hints := fault.Failed, []string{"They are enforced for new rows."}
	if i.orphans {
		hints = append(hints, "Find the rows without a parent, then: ALTER TABLE … VALIDATE CONSTRAINT …")
	}
	if len(i.hidden) > 0 {
		if !i.orphans {
			status = fault.Permission
		}
		var off, validate, on []string
		for _, name := range i.forced {
			off = append(off, "ALTER TABLE ONLY "+name+" NO FORCE ROW LEVEL SECURITY;")
			on = append(on, "ALTER TABLE ONLY "+name+" FORCE ROW LEVEL SECURITY;")
		}
		for _, k := range i.hidden {
			validate = append(validate, k.validate())
		}
		hints = append(hints, fmt.Sprintf("Row level security hides rows of %s from their owner as well. On the target, as superuser: %s Without one, as the tables' owner, who keeps all others out until it is done: BEGIN; %s %[2]s %[4]s COMMIT;",
			strings.Join(i.forced, ", "), strings.Join(validate, " "), strings.Join(off, " "), strings.Join(on, " ")), "Then: pgcutover finish --slot "+slot)
	}
	if len(hints) == 1 {
		hints = append(hints, "Mend the cause, then: pgcutover finish --slot "+slot)
	}
	return fault.New(status, "%s could not be validated on the target: %s", count.Of(n, "foreign key"), strings.Join(i.says, "; ")).WithHint("%s", strings.Join(hints, " "))
}
