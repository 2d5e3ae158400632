package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/dump"
	"github.com/pgsluice/pgsluice/format"
)

// schema returns the schema as records: as of a snapshot, or the current one if snapshot is empty.
func (l *Load) schema(ctx context.Context, c *pgx.Conn, snapshot string, version int) ([]*format.DDL, error) {
	keys, err := catalog.KeyIndexes(ctx, c)
	if err != nil {
		return nil, l.Server.Explain(err)
	}
	x := dump.Extra{Constraints: make(map[uint32]dump.ConstraintIndex), NoOwner: l.NoOwner}
	for _, k := range keys {
		i := dump.ConstraintIndex{Create: k.Create, Kind: "UNIQUE", Index: k.Name}
		if k.Primary {
			i.Kind = "PRIMARY KEY"
		}
		if k.Deferrable {
			i.Suffix = " DEFERRABLE"
		}
		if k.Deferred {
			i.Suffix += " INITIALLY DEFERRED"
		}
		x.Constraints[k.Constraint] = i
	}
	if x.Populated, err = catalog.Populated(ctx, c); err != nil {
		return nil, l.Server.Explain(err)
	}
	if l.Publication != "" {
		x.Without = []string{l.Publication, slot.InsertOnly(l.Publication)}
	}
	settings, err := l.Server.Options()
	if err != nil {
		return nil, err
	}
	login := c.Config().Config
	if err := l.Server.AskPassword(ctx, &login); err != nil {
		return nil, err
	}
	app, done := l.Server.Sessions.Program("pg_dump")
	defer done()
	o := dump.Options{DSN: l.Server.DSN, Password: login.Password, Settings: settings, App: app, Version: version, Snapshot: snapshot,
		Args: []string{"--exclude-schema=pgsluice", "--no-subscriptions", "--encoding=" + pgdial.ClientEncoding(c.PgConn())}}
	if l.NoACL {
		o.Args = append(o.Args, "--no-privileges")
	}
	o.Args = append(o.Args, l.chosen.args()...)
	entries, warnings, err := dump.Schema(ctx, o)
	if err != nil && l.Server.RenewPassword(ctx, &login) {
		o.Password = login.Password
		entries, warnings, err = dump.Schema(ctx, o)
	}
	if err != nil {
		return nil, l.lost(ctx, c, err)
	}
	list := dump.DDL(entries, x)
	for _, w := range warnings {
		list = append(list, l.warn("", "", "pg_dump: "+w))
	}
	return list, nil
}

// lost returns the error of pg_dump, or that our own session is lost: then pg_dump has lost its
// session, or the snapshot, too.
func (l *Load) lost(ctx context.Context, c *pgx.Conn, err error) error {
	if e := c.Ping(ctx); e != nil && pgdial.Lost(e) {
		return l.Server.Explain(e)
	}
	return err
}
