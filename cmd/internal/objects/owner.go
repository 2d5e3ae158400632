package objects

import (
	"context"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// lendCreate gives an object to an owner who has no CREATE right on its schema. On the source, the
// owner may have lost that right later. lendCreate grants it for the duration of the transaction.
func (m *Maker) lendCreate(ctx context.Context, o *progress.Object) (done bool, left []error, err error) {
	tokens := rules.Tokens(strings.TrimRight(o.SQL, "; \n"))
	if len(tokens) < 3 || !strings.EqualFold(tokens[len(tokens)-3].Text, "OWNER") {
		return false, nil, nil
	}
	on := " CREATE ON SCHEMA " + quote(o.Schema)
	owner := tokens[len(tokens)-1].Text
	sql := "GRANT" + on + " TO " + owner + ";\n" + o.SQL + "\n;REVOKE" + on + " FROM " + owner + ";"
	refused, err := m.try(ctx, sql, progress.DoneSQL(o.ID))
	return refused == nil && err == nil, nil, err
}

// asOwner attaches a partition's index as the owner of the table, as pg_restore can. To compare
// the two indexes, the server evaluates constant parts of their expressions, with the rights of the
// role that executes the statement. The functions in them may be meant for the owner.
func (m *Maker) asOwner(ctx context.Context, o *progress.Object) (done bool, left []error, err error) {
	schema, index := rules.AttachedTo(o.SQL)
	if index == "" {
		return false, nil, nil
	}
	row, err := m.Session.Ask(ctx, "SELECT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner WHERE c.oid = pg_catalog.to_regclass("+
		progress.Literal(quote(schema)+"."+quote(index))+") AND r.rolname <> current_user AND pg_catalog.pg_has_role(r.oid, 'MEMBER')")
	if err != nil || len(row) == 0 {
		return false, nil, err
	}
	refused, err := m.try(ctx, "SET LOCAL ROLE "+row[0]+";\n"+o.SQL+"\n;RESET ROLE", progress.DoneSQL(o.ID))
	return refused == nil && err == nil, nil, err
}
