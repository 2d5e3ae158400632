// Package ddl installs and removes event triggers on the source. They record the statements that
// change its schema, so that the stream carries these statements.
package ddl

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

//go:embed ddl.sql
var ddlSQL string

// uninstallSQL keeps the schema if it has other objects: it may be the schema of a target.
const uninstallSQL = `DROP EVENT TRIGGER IF EXISTS pgsluice_sort;
	DROP EVENT TRIGGER IF EXISTS pgsluice_record;
	DROP EVENT TRIGGER IF EXISTS pgsluice_note;
	DROP EVENT TRIGGER IF EXISTS pgsluice_dropped;
	DROP EVENT TRIGGER IF EXISTS pgsluice_start;
	DROP FUNCTION IF EXISTS pgsluice.start(), pgsluice.note(), pgsluice.record(), pgsluice.dropped(), pgsluice.sort(), pgsluice.publish(pg_catalog.oid);
	DROP TABLE IF EXISTS pgsluice.ddl;
	DO $$ BEGIN
		IF pg_catalog.to_regnamespace('pgsluice') IS NOT NULL THEN
			DROP SCHEMA pgsluice;
		END IF;
	EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
	END $$`

// Install makes the source write each statement that changes its schema into a table, so that the
// stream carries the statement at its exact place.
func Install(ctx context.Context, m *session.Migration) error {
	s, err := m.BeginSource(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if v := pgdial.Version(s.OnSource.PgConn()); v < 140000 {
		return fault.New(fault.Config, "the source is PostgreSQL %s; statements can be decoded from version 14 on", pgdial.VersionText(v)).
			WithHint("Make each change of the schema on the target first, then on the source.")
	}
	err = pgx.BeginTxFunc(ctx, s.OnSource, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if err := installable(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, ddlSQL); err != nil {
			return err
		}
		r, err := slot.GetRecorder(ctx, tx.Conn())
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			return err
		}
		return carry(ctx, tx, r)
	})
	if err != nil {
		return session.Denied(s.Source.Explain(err), "Event triggers need a superuser, or on a managed service its administrator's role. "+
			"Without them, make each change of the schema on the target first, then on the source.")
	}
	s.Log.Info("changes of the source's schema are now recorded")
	return warnUncarried(ctx, s)
}

// warnUncarried names the slots that have no publication of their own name with the table. Only
// pgdecode knows which publications it reads such a slot with, and it refuses to start if they lack
// the table.
func warnUncarried(ctx context.Context, s *session.Session) error {
	r, err := slot.GetRecorder(ctx, s.OnSource)
	if err != nil {
		return s.Source.Explain(err)
	}
	rows, err := s.OnSource.Query(ctx, `SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database() AND plugin IN ('pgoutput', 'test_decoding')
		AND NOT temporary AND NOT slot_name = ANY ($1) ORDER BY 1`, r.Carried)
	if err != nil {
		return s.Source.Explain(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s.Source.Explain(err)
	}
	for _, n := range names {
		s.Log.Warn(fmt.Sprintf("slot %s has no publication of its name, so its publication may not carry them", n),
			"hint", "If pgdecode reads this slot, execute for one of its publications: ALTER PUBLICATION … ADD TABLE pgsluice.ddl")
	}
	return nil
}

// installable refuses a schema or table that another role created beforehand: its owner could write
// statements that the target executes.
func installable(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT x.what, r.rolname FROM (
			SELECT 'schema pgsluice' AS what, nspowner AS owner FROM pg_catalog.pg_namespace WHERE nspname = 'pgsluice'
			UNION ALL SELECT 'table pgsluice.ddl', relowner FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass('pgsluice.ddl')
			UNION ALL SELECT 'function pgsluice.' || p.proname, p.proowner FROM pg_catalog.pg_proc p WHERE p.pronamespace = pg_catalog.to_regnamespace('pgsluice')
				AND p.proname IN ('start', 'dropped', 'note', 'record', 'sort', 'publish')) x
		JOIN pg_catalog.pg_roles r ON r.oid = x.owner WHERE NOT r.rolsuper AND r.rolname <> CURRENT_USER`)
	if err != nil {
		return err
	}
	var what, owner string
	var list []string
	if _, err := pgx.ForEachRow(rows, []any{&what, &owner}, func() error {
		list = append(list, fmt.Sprintf("%s belongs to %s", what, pgx.Identifier{owner}.Sanitize()))
		return nil
	}); err != nil || len(list) == 0 {
		return err
	}
	return fault.New(fault.Permission, "could not record changes of the schema: %s", strings.Join(list, ", ")).
		WithDetail("The owner of any of these could execute any statement on the target.").
		WithHint("To see its contents: psql -c '\\dt pgsluice.*'. If nobody needs them, drop it (DROP SCHEMA pgsluice CASCADE) and try again.")
}

// carry adds the table to each publication that has a slot of the same name.
func carry(ctx context.Context, tx pgx.Tx, r *slot.Recorder) error {
	rows, err := tx.Query(ctx, `SELECT p.pubname FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_replication_slots s
		ON s.slot_name = p.pubname AND s.database = pg_catalog.current_database() WHERE NOT p.pubname = ANY ($1)`, r.Carried)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for i := 0; err == nil && i < len(names); i++ {
		_, err = tx.Exec(ctx, "ALTER PUBLICATION "+pgx.Identifier{names[i]}.Sanitize()+" ADD TABLE pgsluice.ddl")
	}
	return err
}

// Uninstall removes what Install created, once every slot has read the recorded statements. After
// that, nobody could tell whether to trust a recorded statement.
func Uninstall(ctx context.Context, m *session.Migration) error {
	s, err := m.BeginSource(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	for deadline := time.Now().Add(uninstallTimeout); ; {
		last, end, err := recorded(ctx, s.OnSource)
		if err != nil {
			return session.Denied(s.Source.Explain(err), "It has to be done by the role that installed it, or a superuser.")
		}
		for last != 0 {
			slow, active, err := behind(ctx, s.OnSource, end)
			if err != nil {
				return s.Source.Explain(err)
			}
			if slow == "" {
				break
			}
			if !active || time.Now().After(deadline) {
				return fault.New(fault.Config, "slot %q may not have read the last change of the schema", slow).
					WithHint("Run scripts/sync %s until it has caught up, then uninstall while it runs. To abandon the migration: pgcutover cleanup --slot %[1]s --force", slow)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
		done, err := uninstall(ctx, s, last)
		if err != nil {
			return session.Denied(s.Source.Explain(err), "It has to be done by the role that installed it, or a superuser.")
		}
		if done {
			s.Log.Info("changes of the source's schema are no longer recorded")
			return nil
		}
	}
}

// uninstallTimeout limits how long Uninstall waits for active slots to read the last recorded
// statements.
const uninstallTimeout = 10 * time.Second

// isThere checks that the table's sequence exists. The sequence must not be another role's view,
// because reading the view would execute that role's functions.
const isThere = `SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname = 'pgsluice' AND c.relname = 'ddl_id_seq' AND c.relkind = 'S'
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid IN (n.nspowner, c.relowner) AND NOT r.rolsuper AND r.rolname <> current_user))`

// recorded returns the number of the last recorded row (0 if there is none) and an LSN after the
// end of the transaction that recorded it.
func recorded(ctx context.Context, c *pgx.Conn) (last int64, end format.LSN, err error) {
	var there bool
	if err := c.QueryRow(ctx, isThere).Scan(&there); err != nil || !there {
		return 0, 0, err
	}
	err = pgx.BeginTxFunc(ctx, c, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		// An open transaction that has recorded a statement holds a lock on the table.
		if _, err := tx.Exec(ctx, "LOCK TABLE pgsluice.ddl IN SHARE MODE"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM pgsluice.ddl_id_seq").Scan(&last)
	})
	if err != nil || last == 0 {
		return last, 0, err
	}
	end, err = slot.Mark(ctx, c, "ddl uninstall")
	return last, end, err
}

// behind returns a slot of this database that has not confirmed everything up to an LSN, and
// whether the slot is active.
func behind(ctx context.Context, c *pgx.Conn, end format.LSN) (name string, active bool, err error) {
	err = c.QueryRow(ctx, `SELECT slot_name, active FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database() AND plugin IN ('pgoutput', 'test_decoding')
		AND NOT temporary AND confirmed_flush_lsn < $1::pg_catalog.text::pg_catalog.pg_lsn AND slot_name IN (SELECT p.pubname FROM pg_catalog.pg_publication p
		WHERE p.puballtables OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = pg_catalog.to_regclass('pgsluice.ddl')))
		ORDER BY active LIMIT 1`, end.String()).Scan(&name, &active)
	if err == pgx.ErrNoRows {
		err = nil
	}
	return name, active, err
}

// uninstall removes everything, unless rows after the one with that number were recorded.
func uninstall(ctx context.Context, s *session.Session, last int64) (done bool, err error) {
	err = pgx.BeginTxFunc(ctx, s.OnSource, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		var there bool
		if err := tx.QueryRow(ctx, isThere).Scan(&there); err != nil {
			return err
		}
		now := last
		if there {
			if _, err := tx.Exec(ctx, "LOCK TABLE pgsluice.ddl IN ACCESS EXCLUSIVE MODE"); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx,
				"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM pgsluice.ddl_id_seq").
				Scan(&now); err != nil {
				return err
			}
		}
		if done = now == last; !done {
			return nil
		}
		_, err := tx.Exec(ctx, uninstallSQL)
		return err
	})
	return done, err
}

// Check reports whether schema changes of the source are recorded, and fails if they are not.
func Check(ctx context.Context, m *session.Migration) error {
	s, err := m.BeginSource(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	r, err := slot.GetRecorder(ctx, s.OnSource)
	if err != nil {
		return s.Source.Explain(err)
	}
	if !r.Installed {
		return fault.New(fault.Config, "changes of the source's schema are not recorded").
			WithHint("To record them: pgcutover ddl install")
	}
	if err := r.Err(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.Out, "ok\tchanges of the source's schema are recorded")
	return err
}

// Unused reports whether schema changes are recorded although no slot carries them.
func Unused(ctx context.Context, c *pgx.Conn) (bool, error) {
	r, err := slot.GetRecorder(ctx, c)
	if err != nil || !r.Installed {
		return false, err
	}
	var used bool
	err = c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database() AND slot_name = ANY ($1))`,
		r.Carried).Scan(&used)
	return !used, err
}
