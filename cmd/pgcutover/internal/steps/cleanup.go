package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// Cleanup removes what the migration has left: slot and publications on the source, its state on
// the target, and schema pgsluice with it if there is no other's. It fails if there is nothing of
// that name, but there are other migrations. Before the cutover is finished it does so only if
// force is set, since the migration cannot go on then.
func (m *Migration) Cleanup(ctx context.Context, force bool) error {
	t, err := m.target(ctx)
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	streams, err := progress.Streams(ctx, t, m.Slot)
	if err != nil {
		return m.Target.Explain(err)
	}
	for _, s := range streams {
		if !s.Ended && !force {
			return fault.New(fault.Config, "the migration of %v has not been cut over", s.Key).
				WithHint("To give it up: pgcutover cleanup --slot %s --force", m.Slot)
		}
	}
	c, err := m.source(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if err := m.apart(ctx, c, t); err != nil {
		return err
	}
	if !force {
		for _, s := range streams {
			if err := m.requireAllCreated(ctx, c, t, s); err != nil {
				return err
			}
		}
	}
	// Of a schema that is another's it need not be known whether it is a target's.
	if into, err := progress.Streams(ctx, c, m.Slot); err == nil && len(into) > 0 && len(streams) == 0 {
		return fault.New(fault.Config, "the source is the target of the migration of %v, and the target knows nothing of it", into[0].Key).
			WithHint("Are the two swapped? Look at --source and --target, or PGSLUICE_SOURCE and PGSLUICE_TARGET.")
	}
	publications, err := slot.Publications(ctx, c, []string{m.Slot})
	if err != nil {
		return m.Source.Explain(err)
	}
	adopted := len(publications) == 1 && publications[0] == m.Slot // pgextract makes two
	if adopted {
		publications = nil
	}
	info, err := slot.Get(ctx, c, m.Slot)
	if err != nil {
		return m.Source.Explain(err)
	}
	if err := m.ours(ctx, c, info); err != nil {
		return err
	}
	found := info != nil || len(publications)+len(streams) > 0
	if !found {
		if err := m.noOthers(ctx, c, t); err != nil {
			return err
		}
	}
	if err := m.dropSlot(ctx, c); err != nil {
		return err
	}
	if adopted {
		if err := m.leave(ctx, c); err != nil {
			return err
		}
	}
	for _, p := range publications {
		if err := readWrite(ctx, c, "DROP PUBLICATION IF EXISTS "+pgx.Identifier{p}.Sanitize()); err != nil {
			return m.Source.Explain(err)
		}
	}
	var denied error // the recorder is a superuser's: the rest goes nevertheless
	if unused, err := ddlUnused(ctx, c); err != nil {
		return m.Source.Explain(err)
	} else if unused {
		if err := m.DDLUninstall(ctx); fault.StatusOf(err) == fault.Permission {
			denied = fault.New(fault.Permission, "what pgcutover ddl install has made on the source is still there: %w", err).
				WithHint("As the role that has installed it, or a superuser, in --source or PGSLUICE_SOURCE: pgcutover ddl uninstall")
		} else if err != nil {
			return err
		}
	}
	for _, s := range streams {
		if err := m.release(ctx, t, s); err != nil {
			return err
		}
		if _, err := t.Exec(ctx, "DELETE FROM pgsluice.streams WHERE stream_id = $1", s.ID); err != nil {
			return m.Target.Explain(err)
		}
	}
	left, err := progress.Streams(ctx, t, "")
	if err != nil {
		return m.Target.Explain(err)
	}
	if len(left) == 0 {
		if err := progress.Remove(ctx, t); err != nil {
			return m.Target.Explain(err)
		}
	}
	if fenced, err := isFenced(ctx, c); err == nil && fenced {
		m.Log.Info("the source is still fenced; to let it be written to: pgcutover unfence")
	}
	if !found {
		m.Log.Info(fmt.Sprintf("cleanup: nothing of slot %q is left, neither on the source nor on the target", m.Slot))
		return denied
	}
	m.Log.Info(fmt.Sprintf("cleanup: slot and publications %q are gone from the source, its state from the target", m.Slot))
	if force {
		if err := m.wayBack(ctx, t); err != nil {
			return err
		}
	}
	return denied
}

// leave leaves a publication that somebody has made for himself as it was: without our line in its
// comment, if that can be written.
func (m *Migration) leave(ctx context.Context, c *pgx.Conn) error {
	name := []string{m.Slot}
	if b, err := slot.GetBinding(ctx, c, m.Slot, name); err != nil || b == (slot.Binding{}) {
		return m.Source.Explain(err)
	}
	m.Log.Info(fmt.Sprintf("publication %q was not made by pgextract, and stays", m.Slot))
	_, err := slot.SetBinding(ctx, c, m.Slot, name, slot.Binding{})
	return m.Source.Explain(err)
}

// ours refuses a slot that no migration of the source's database can have made. A slot's name is
// the server's: it may be another database's migration, or keep WAL for a standby.
func (m *Migration) ours(ctx context.Context, c *pgx.Conn, info *slot.Info) error {
	if info == nil {
		return nil
	}
	var database string
	if err := c.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&database); err != nil {
		return m.Source.Explain(err)
	}
	var what string
	switch {
	case info.Database == "":
		what = "is a physical one, which a standby or a backup may need"
	case info.Database != database:
		what = fmt.Sprintf("belongs to database %q, and the connection is to %q", info.Database, database)
	case info.Plugin != "pgoutput":
		what = fmt.Sprintf("uses the output plugin %q, and those of migrations use pgoutput", info.Plugin)
	default:
		return nil
	}
	e := fault.New(fault.Config, "slot %q %s: it is not dropped", m.Slot, what)
	if info.Database != "" && info.Database != database {
		return e.WithHint("If that migration is meant, connect to database %q, in --source or PGSLUICE_SOURCE.", info.Database)
	}
	return e.WithHint("Name the slot of the migration: pgcutover status says which there is.")
}

// wayBack says how a migration that was given up is begun again: what was loaded stands in its way.
// The statements go to standard output, so that they can be piped into psql.
func (m *Migration) wayBack(ctx context.Context, t *pgx.Conn) error {
	list, err := identity.Emptying(ctx, t)
	if err != nil {
		return m.Target.Explain(err)
	}
	m.Log.Info(fmt.Sprintf("cleanup: to begin again, empty the target by these statements, connected to another database of its server; then: pgextract --slot %s | pgapply", m.Slot))
	for _, s := range list {
		if _, err := fmt.Fprintf(m.Out, "%s;\n", s); err != nil {
			return err
		}
	}
	return nil
}

// noOthers fails if there are migrations between the two servers: one of them may be meant where a
// name is not known.
func (m *Migration) noOthers(ctx context.Context, c, t *pgx.Conn) error {
	names, err := slot.Migrations(ctx, c)
	if err != nil {
		return m.Source.Explain(err)
	}
	streams, err := progress.Streams(ctx, t, "")
	if err != nil {
		return m.Target.Explain(err)
	}
	for _, s := range streams {
		if s.Key.Slot != "" {
			names = append(names, s.Key.Slot)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fault.New(fault.Unavailable, "there is no slot %q, neither on the source nor in what the target knows", m.Slot).
		WithHint("These are there: %s", strings.Join(slices.Compact(names), ", "))
}

// readWrite executes a statement although the database may be fenced.
func readWrite(ctx context.Context, c *pgx.Conn, sql string) error {
	return pgx.BeginTxFunc(ctx, c, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
}

// dropSlot drops the slot, ending the session that reads it.
func (m *Migration) dropSlot(ctx context.Context, c *pgx.Conn) error {
	done, err := poll(ctx, 10*time.Second, func() (bool, error) {
		info, err := slot.Get(ctx, c, m.Slot)
		if err != nil || info == nil {
			return err == nil, m.Source.Explain(err)
		}
		if info.Active {
			_, err := c.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend($1)", info.ActivePID)
			return false, m.Source.Explain(err)
		}
		_, err = c.Exec(ctx, "SELECT pg_catalog.pg_drop_replication_slot($1)", m.Slot)
		return err == nil, m.Source.Explain(err)
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "slot %q is still in use", m.Slot).WithHint("Stop continuous sync first.")
	}
	return err
}
