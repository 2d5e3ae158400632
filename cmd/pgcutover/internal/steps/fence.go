package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// FenceOptions choose which checks Fence skips.
type FenceOptions struct {
	Check        bool     // only check whether the source can be closed
	AllowOrphans bool     // close the source even if its rows may violate foreign keys
	Allow        []string // ids of ledger lines to accept
}

// once is the patience of callers that do not wait for locks: they start the whole step again.
const once = time.Nanosecond

// Fence stops all writes to the source's database. It makes the database read-only for new
// sessions, ends the existing ones, and then proves the fence by trying to write. It refuses to
// close the source while the target lacks an object that is not allowed to be missing.
func Fence(ctx context.Context, m *session.Migration, o FenceOptions) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	for _, holds := range []func(context.Context, *session.Session) error{checkFence, usable, answers} {
		if err := holds(ctx, s); err != nil {
			return err
		}
	}
	if !s.Stream.Ended && (o.Check || !o.AllowOrphans) {
		if err := missing.RequireParents(ctx, s, o.AllowOrphans, o.Allow); err != nil {
			return err
		}
	}
	if o.Check {
		if s.Stream.Ended {
			return nil
		}
		return missing.RequireCarried(ctx, s, o.Allow)
	}
	if err := s.Exclusive(ctx); err != nil {
		return err
	}
	stamp, counted := "", ""
	if !s.Stream.Ended {
		if err := requireLoaded(s); err != nil {
			return err
		}
		if stamp, err = inventory.Stamp(ctx, s.OnSource); err != nil {
			return m.Source.Explain(err)
		}
		r, err := missing.RequireNothing(ctx, s, o.Allow, once)
		if err != nil {
			return err
		}
		counted = r.Unchanged
	}
	if err := s.Step(ctx, "fence", func() (string, error) { return fence(ctx, s) }); err != nil {
		return err
	}
	// If the source's catalogs have not changed since the fence, open need not compare them again.
	return m.Target.Explain(progress.SetStamp(ctx, s.OnTarget, s.Stream.ID, "fence", stamp, counted, largeObjects(ctx, s)))
}

// fence closes the source for all sessions, and proves it.
func fence(ctx context.Context, s *session.Session) (string, error) {
	if err := closeSource(ctx, s); err != nil {
		return "", err
	}
	n, err := endSessions(ctx, s)
	if err != nil {
		return "", err
	}
	if err := proveReadOnly(ctx, s); err != nil {
		return "", err
	}
	// Check again: a session may have prepared a transaction before it was ended.
	if err := checkPrepared(ctx, s); err != nil {
		return "", err
	}
	return fmt.Sprintf("database %q of the source is read-only, %s ended", s.Stream.Key.Database, count.Of(n, "session")), nil
}

// requireLoaded refuses to continue while a load is running or unfinished: the ledger does not list
// the objects that the load has yet to create.
func requireLoaded(s *session.Session) error {
	if s.Stream.LoadStatus != "loading" {
		return nil
	}
	return fault.New(fault.Config, "the full load is not complete").
		WithHint("To wait for it: pgcutover wait loaded --slot %[1]s. If the load has stopped, stop sync and run: pgextract --slot %[1]s --resume | pgapply", s.Slot)
}

// checkFence refuses to fence if a role could still write: its own setting overrides the
// database's.
func checkFence(ctx context.Context, s *session.Session) error {
	if err := session.RequireFencing(ctx, s); err != nil {
		return err
	}
	// The server takes any spelling of a boolean. A role's setting for this database overrides its
	// setting for all.
	rows, err := s.OnSource.Query(ctx, `SELECT r.rolname FROM (SELECT DISTINCT ON (s.setrole) s.setrole, (pg_catalog.substr(x, pg_catalog.strpos(x, '=') + 1))::pg_catalog.bool AS closed
		FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) x
		WHERE s.setrole <> 0 AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
		AND pg_catalog.split_part(x, '=', 1) = 'default_transaction_read_only' ORDER BY s.setrole, s.setdatabase = 0) v
		JOIN pg_catalog.pg_roles r ON r.oid = v.setrole WHERE NOT v.closed`)
	if err != nil {
		return s.Source.Explain(err)
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s.Source.Explain(err)
	}
	if len(roles) > 0 {
		return fault.New(fault.Config,
			"the fence would not hold: these roles have default_transaction_read_only = off: %s",
			strings.Join(roles, ", ")).
			WithHint("On the source: ALTER ROLE … RESET default_transaction_read_only (or … IN DATABASE … RESET …)")
	}
	return checkPrepared(ctx, s)
}

// usable checks that the slot still has the changes that the target lacks. Otherwise closing the
// source would be pointless.
func usable(ctx context.Context, s *session.Session) error {
	if s.Stream.Ended || s.Stream.Key.Slot == "" {
		return nil
	}
	info, err := slot.Get(ctx, s.OnSource, s.Stream.Key.Slot)
	if err != nil {
		return s.Source.Explain(err)
	}
	return info.Usable(s.Stream.Key.Slot, s.Stream.Key.Database)
}

// checkPrepared refuses to continue if prepared transactions exist: they can be committed even in a
// read-only database.
func checkPrepared(ctx context.Context, s *session.Session) error {
	rows, err := s.OnSource.Query(ctx,
		"SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared")
	if err != nil {
		return s.Source.Explain(err)
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s.Source.Explain(err)
	}
	if len(gids) > 0 {
		return fault.New(fault.Config, "the fence would not hold: there are prepared transactions on the source: %s", count.Some(gids)).
			WithHint("End each of them on the source with COMMIT PREPARED or ROLLBACK PREPARED.")
	}
	return nil
}

// proveReadOnly opens a session like any client and tries to write.
func proveReadOnly(ctx context.Context, s *session.Session) error {
	c, err := s.Connect(ctx, s.Source)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		return s.Source.Explain(err)
	}
	_, err = tx.Exec(ctx, "CREATE SCHEMA pgsluice_fence_test")
	_ = tx.Rollback(ctx)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "25006" {
		return nil
	}
	return fault.New(fault.Config, "the fence does not hold: a new session on the source can still write").
		WithDetail("A write should have failed as in a read-only transaction. The result was: %v.", err)
}
