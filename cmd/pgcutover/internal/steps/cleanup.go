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
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/ddl"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Cleanup removes what the migration has left behind: the slot and publications on the source, and
// the migration's state on the target, including schema pgsluice if no other migration uses it.
// Cleanup fails if it finds nothing of that name but other migrations exist. Before the cutover is
// finished, it requires force, because the migration cannot continue afterwards.
func Cleanup(ctx context.Context, m *session.Migration, force bool) error {
	c, err := openRemains(ctx, m, force)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if !force {
		for _, x := range c.streams {
			if err := missing.RequireCreated(ctx, c.Of(x)); err != nil {
				return err
			}
		}
	}
	if err := c.find(ctx, force); err != nil {
		return err
	}
	if err := c.unwritten(ctx, force); err != nil {
		return err
	}
	if err := c.removeFromSource(ctx); err != nil {
		return err
	}
	if err := removeBack(ctx, c.Session); err != nil {
		return err
	}
	// The recorder belongs to a superuser. If we may not remove it, remove the rest.
	denied, err := c.removeRecorder(ctx)
	if err != nil {
		return err
	}
	if err := c.removeFromTarget(ctx); err != nil {
		return err
	}
	c.stillClosed(ctx)
	if !c.found {
		m.Log.Info(fmt.Sprintf("cleanup: nothing of slot %q is left, neither on the source nor on the target", m.Slot))
		return denied
	}
	m.Log.Info("cleanup: removed " + c.removed())
	if force && len(c.streams) > 0 {
		if err := wayBack(ctx, c.Session); err != nil {
			return err
		}
	}
	return denied
}

// stillClosed says that the source is read-only, and what may be done about it.
func (r *remains) stillClosed(ctx context.Context) {
	d, err := slot.GetDatabase(ctx, r.OnSource)
	switch {
	case err != nil || !d.Closed:
	case d.Fence == nil:
		r.Log.Info("the source is read-only, but no fence has closed it", "hint", thaw(d.Name))
	case d.Fence.Opened != nil:
		r.Log.Info("the source is still fenced: the target has taken its place")
	default:
		r.Log.Info("the source is still fenced. To allow writes to it: pgcutover unfence --slot " + d.Fence.Slot)
	}
}

// remains are the objects that a migration has left on both sides.
type remains struct {
	*session.Session
	streams      []*progress.Stream
	publications []string // to drop
	adopted      bool     // the publication belongs to somebody else
	found        bool     // at least one object exists
	dropped      bool     // the slot existed
}

// openRemains opens both sides. The target may have no record of the migration.
func openRemains(ctx context.Context, m *session.Migration, force bool) (*remains, error) {
	r := &remains{Session: &session.Session{Migration: m}}
	if err := r.open(ctx, force); err != nil {
		r.Close(ctx)
		return nil, err
	}
	return r, nil
}

func (r *remains) open(ctx context.Context, force bool) (err error) {
	m := r.Migration
	if r.OnTarget, err = m.ConnectTarget(ctx); err != nil {
		return err
	}
	if r.streams, err = progress.Streams(ctx, r.OnTarget, m.Slot); err != nil {
		return m.Target.Explain(err)
	}
	for _, x := range r.streams {
		if !x.Ended && !force {
			return fault.New(fault.Config, "the migration of %v has not been cut over", x.Key).
				WithHint("To abandon it: pgcutover cleanup --slot %s --force", m.Slot)
		}
		if err := r.Of(x).Exclusive(ctx); err != nil {
			return err
		}
	}
	if r.OnSource, err = m.Connect(ctx, m.Source); err != nil {
		return err
	}
	return r.Apart(ctx)
}

// find finds the migration's objects on the source and checks that they belong to it.
func (r *remains) find(ctx context.Context, force bool) error {
	// Ignore an error: the schema may belong to somebody else, and then this does not matter.
	if into, err := progress.Streams(ctx, r.OnSource, r.Slot); err == nil && len(into) > 0 && len(r.streams) == 0 {
		return fault.New(fault.Config, "the source is the target of the migration of %v, of which the target has no record", into[0].Key).
			WithHint("Check whether source and target are swapped: --source and --target, or PGSLUICE_SOURCE and PGSLUICE_TARGET.")
	}
	var err error
	if r.publications, err = slot.Publications(ctx, r.OnSource, []string{r.Slot}); err != nil {
		return r.Source.Explain(err)
	}
	r.adopted = len(r.publications) == 1 && r.publications[0] == r.Slot // pgextract creates two
	if r.adopted {
		r.publications = nil
	}
	info, err := slot.Get(ctx, r.OnSource, r.Slot)
	if err != nil {
		return r.Source.Explain(err)
	}
	if err := r.claim(ctx, info, force); err != nil {
		return err
	}
	r.dropped = info != nil
	r.found = info != nil || len(r.publications)+len(r.streams) > 0
	if !r.found {
		return noOthers(ctx, r.Session)
	}
	return nil
}

// removeFromSource drops the slot and the publications.
func (r *remains) removeFromSource(ctx context.Context) error {
	if err := dropSlot(ctx, r.Session); err != nil {
		return err
	}
	if r.adopted {
		if err := leave(ctx, r.Session); err != nil {
			return err
		}
	}
	for _, p := range r.publications {
		if err := readWrite(ctx, r.OnSource, "DROP PUBLICATION IF EXISTS "+pgx.Identifier{p}.Sanitize()); err != nil {
			return r.Source.Explain(err)
		}
	}
	return nil
}

// removeRecorder removes the recording of schema changes if no migration needs it any more. denied
// is set if our role may not.
func (r *remains) removeRecorder(ctx context.Context) (denied, err error) {
	unused, err := ddl.Unused(ctx, r.OnSource)
	if err != nil {
		return nil, r.Source.Explain(err)
	}
	if !unused {
		return nil, nil
	}
	err = ddl.Uninstall(ctx, r.Migration)
	if fault.StatusOf(err) != fault.Permission {
		return nil, err
	}
	return fault.New(fault.Permission, "could not remove what pgcutover ddl install created on the source: %w", err).
		WithHint("Connect to the source as the role that installed it, or as a superuser, and run: pgcutover ddl uninstall"), nil
}

// removeFromTarget removes the migration's state, and schema pgsluice if it holds no other
// migration.
func (r *remains) removeFromTarget(ctx context.Context) error {
	for _, x := range r.streams {
		if err := release(ctx, r.Of(x)); err != nil {
			return err
		}
		if _, err := r.OnTarget.Exec(ctx, "DELETE FROM pgsluice.streams WHERE stream_id = $1", x.ID); err != nil {
			return r.Target.Explain(err)
		}
	}
	left, err := progress.Streams(ctx, r.OnTarget, "")
	if err != nil || len(left) > 0 {
		return r.Target.Explain(err)
	}
	return r.Target.Explain(progress.Remove(ctx, r.OnTarget))
}

// leave keeps a publication that the user created. It removes our line from the publication's
// comment, if our role may write it.
func leave(ctx context.Context, s *session.Session) error {
	name := []string{s.Slot}
	if b, err := slot.GetBinding(ctx, s.OnSource, s.Slot, name); err != nil || b == (slot.Binding{}) {
		return s.Source.Explain(err)
	}
	s.Log.Info(fmt.Sprintf("publication %q was not created by pgextract; it is not dropped", s.Slot))
	_, err := slot.SetBinding(ctx, s.OnSource, s.Slot, name, slot.Binding{})
	return s.Source.Explain(err)
}

// ours refuses a slot that cannot belong to a migration of the source's database. Slot names are
// shared by the whole server: the slot may be used by another database's migration, or keep WAL for
// a standby. Others read slots of the same plugins as well, but without such publications: known is
// set if there are some, or if the migration is on record.
func ours(ctx context.Context, s *session.Session, info *slot.Info, known bool) error {
	if info == nil {
		return nil
	}
	var database string
	if err := s.OnSource.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&database); err != nil {
		return s.Source.Explain(err)
	}
	var what string
	switch {
	case info.Database == "":
		what = "is a physical one, which a standby or a backup may need"
	case info.Database != database:
		what = fmt.Sprintf("belongs to database %q, and the connection is to %q", info.Database, database)
	case info.Plugin != slot.PGOutput && info.Plugin != slot.TestDecoding:
		what = fmt.Sprintf("uses the output plugin %q, and those of migrations use pgoutput or test_decoding", info.Plugin)
	case !known:
		what = "has no publication, unlike those of migrations"
	default:
		return nil
	}
	e := fault.New(fault.Config, "slot %q %s; it is not dropped", s.Slot, what)
	if info.Database != "" && info.Database != database {
		return e.WithHint("If you mean that migration, name database %q in --source or PGSLUICE_SOURCE.", info.Database)
	}
	return e.WithHint("Use the slot of the migration. To list the migrations: pgcutover status")
}

// wayBack prints how to start an abandoned migration again: the loaded objects have to be removed
// first. The statements go to standard output, ready to be piped into psql.
func wayBack(ctx context.Context, s *session.Session) error {
	list, err := identity.Emptying(ctx, s.OnTarget)
	if err != nil {
		return s.Target.Explain(err)
	}
	s.Log.Info(fmt.Sprintf("cleanup: to begin again, execute these statements in another database of the target's server, then run: pgextract --slot %s | pgapply", s.Slot))
	for _, sql := range list {
		if _, err := fmt.Fprintf(s.Out, "%s;\n", sql); err != nil {
			return err
		}
	}
	return nil
}

// noOthers fails if other migrations exist between the two servers: for an unknown name, the user
// may have meant one of them.
func noOthers(ctx context.Context, s *session.Session) error {
	names, err := slot.Migrations(ctx, s.OnSource)
	if err != nil {
		return s.Source.Explain(err)
	}
	streams, err := progress.Streams(ctx, s.OnTarget, "")
	if err != nil {
		return s.Target.Explain(err)
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
	return fault.New(fault.Unavailable, "slot %q exists neither on the source nor in the target's state", s.Slot).
		WithHint("The existing slots are: %s", strings.Join(slices.Compact(names), ", "))
}

// readWrite executes a statement even in a fenced database.
func readWrite(ctx context.Context, c *pgx.Conn, sql string) error {
	return pgx.BeginTxFunc(ctx, c, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
}

// dropSlot drops the slot and ends the session that reads it.
func dropSlot(ctx context.Context, s *session.Session) error {
	done, err := poll(ctx, 10*time.Second, func() (bool, error) {
		info, err := slot.Get(ctx, s.OnSource, s.Slot)
		if err != nil || info == nil {
			return err == nil, s.Source.Explain(err)
		}
		if info.Active {
			_, err := s.OnSource.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend($1)", info.ActivePID)
			return false, s.Source.Explain(err)
		}
		_, err = s.OnSource.Exec(ctx, "SELECT pg_catalog.pg_drop_replication_slot($1)", s.Slot)
		return err == nil, s.Source.Explain(err)
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "slot %q is still in use", s.Slot).WithHint("Stop continuous sync, then run cleanup again.")
	}
	return err
}
