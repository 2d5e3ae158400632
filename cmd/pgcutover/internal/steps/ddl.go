package steps

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

//go:embed ddl.sql
var ddlSQL string

// uninstallSQL leaves the schema, which may be that of a target, if there is anything else in it.
const uninstallSQL = `DROP EVENT TRIGGER IF EXISTS pgsluice_record;
	DROP EVENT TRIGGER IF EXISTS pgsluice_dropped;
	DROP FUNCTION IF EXISTS pgsluice.record(), pgsluice.dropped(), pgsluice.publish(oid);
	DO $$ BEGIN
		IF to_regnamespace('pgsluice') IS NOT NULL THEN
			REVOKE USAGE ON SCHEMA pgsluice FROM PUBLIC;
			DROP SCHEMA pgsluice;
		END IF;
	EXCEPTION WHEN dependent_objects_still_exist THEN
		REVOKE USAGE ON SCHEMA pgsluice FROM PUBLIC; -- once more: that was rolled back, too
	END $$`

// DDLInstall makes the source write each statement that changes its schema into its WAL, so that the stream has it at its exact place.
func (m *Migration) DDLInstall(ctx context.Context) error {
	return m.onSource(ctx, func(c *pgx.Conn) error {
		if v := pgdial.Version(c.PgConn()); v < 140000 {
			return fault.New(fault.Config, "the source is PostgreSQL %s; statements can be decoded from version 14 on", printVersion(v)).
				WithHint("Make each change of the schema on the target first, then on the source.")
		}
		if err := readWrite(ctx, c, ddlSQL); err != nil {
			return denied(m.Source.Explain(err), "Event triggers need a superuser, or on a managed service its administrator's role. "+
				"Without them, make each change of the schema on the target first, then on the source.")
		}
		m.Log.Info("changes of the source's schema are recorded from now on")
		return nil
	})
}

// DDLUninstall removes what DDLInstall made.
func (m *Migration) DDLUninstall(ctx context.Context) error {
	return m.onSource(ctx, func(c *pgx.Conn) error {
		if err := readWrite(ctx, c, uninstallSQL); err != nil {
			return denied(m.Source.Explain(err), "It has to be done by the role that installed it, or a superuser.")
		}
		m.Log.Info("changes of the source's schema are not recorded any more")
		return nil
	})
}

// DDLCheck reports whether changes of the source's schema are recorded, and fails if they are not.
func (m *Migration) DDLCheck(ctx context.Context) error {
	return m.onSource(ctx, func(c *pgx.Conn) error {
		installed, err := ddlInstalled(ctx, c)
		if err != nil {
			return m.Source.Explain(err)
		}
		if !installed {
			return fault.New(fault.Config, "changes of the source's schema are not recorded").WithHint("To have them in the stream: pgcutover ddl install")
		}
		_, err = fmt.Fprintln(m.Out, "ok\tchanges of the source's schema are recorded")
		return err
	})
}

// ddlInstalled reports whether the event triggers are there and enabled.
func ddlInstalled(ctx context.Context, c *pgx.Conn) (bool, error) {
	var n int
	err := c.QueryRow(ctx, `SELECT count(*) FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid WHERE t.evtenabled IN ('O', 'A')
		AND (t.evtname, p.proname) IN (('pgsluice_record', 'record'), ('pgsluice_dropped', 'dropped')) AND p.pronamespace = to_regnamespace('pgsluice')`).Scan(&n)
	return n == 2, err
}

func (m *Migration) onSource(ctx context.Context, do func(*pgx.Conn) error) error {
	c, err := m.source(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	return do(c)
}
