package steps

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// closeSource closes the source's database for new sessions, and returns what it has done. Its undo
// is recorded on the target before, and on the source in the same transaction.
func closeSource(ctx context.Context, s *session.Session) (*slot.Fence, error) {
	f, sql, err := closing(ctx, s)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	back, err := restoring(ctx, s, f, s.Stream.Key.Database)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	if err := progress.SetFence(ctx, s.OnTarget, s.Stream.ID, f.ID, "BEGIN READ WRITE; "+back+"; COMMIT;"); err != nil {
		return nil, s.Target.Explain(err)
	}
	err = slot.ReadWrite(ctx, s.OnSource, sql...)
	return f, session.Denied(s.Source.Explain(err), "The role must own the source's database.")
}

// closing returns a fence, and the statements that put it up and record it.
func closing(ctx context.Context, s *session.Session) (*slot.Fence, []string, error) {
	d, err := slot.GetDatabase(ctx, s.OnSource)
	if err != nil {
		return nil, nil, err
	}
	f, err := newFence(ctx, s, d)
	if err != nil {
		return nil, nil, err
	}
	sql, err := narrow(ctx, s, f)
	if err != nil {
		return nil, nil, err
	}
	record, err := d.Record(f)
	return f, append(append([]string{record}, sql...), "ALTER DATABASE "+pgx.Identifier{d.Name}.Sanitize()+" SET default_transaction_read_only = on"), err
}

// newFence returns a fence with a new id, and with what was there before the first of the fences
// that are in force.
func newFence(ctx context.Context, s *session.Session, d *slot.Database) (*slot.Fence, error) {
	f := d.Fence
	if f != nil && f.Slot != s.Slot {
		return nil, s.Anothers(f) // it has come since the conditions were checked
	}
	if f == nil || !d.Closed {
		f = new(slot.Fence)
		if err := s.OnSource.QueryRow(ctx, `SELECT pg_catalog.clock_timestamp(), (SELECT pg_catalog.substr(x, pg_catalog.strpos(x, '=') + 1)
			FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) x WHERE s.setrole = 0 AND s.setdatabase = d.oid AND pg_catalog.split_part(x, '=', 1) = 'default_transaction_read_only')
			FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`).Scan(&f.Began, &f.Setting); err != nil {
			return nil, err
		}
	}
	f.ID, f.Slot = rand.Text(), s.Slot
	if !s.Stream.Ended {
		f.Opened = nil // an open that failed at its last step has set it
	}
	return f, nil
}

// restoring returns the statements that give back what was there before a fence.
func restoring(ctx context.Context, s *session.Session, f *slot.Fence, database string) (string, error) {
	sql, err := widen(ctx, s, f)
	db := "ALTER DATABASE " + pgx.Identifier{database}.Sanitize()
	if f == nil || f.Setting == nil {
		sql = append(sql, db+" RESET default_transaction_read_only")
	} else {
		sql = append(sql, db+" SET default_transaction_read_only = "+text.Literal(*f.Setting))
	}
	return strings.Join(sql, "; "), err
}

// reopen undoes a fence, from its record on the source. What also does happens in the same
// transaction.
func reopen(ctx context.Context, s *session.Session, f *slot.Fence, also ...func() error) error {
	err := pgx.BeginTxFunc(ctx, s.OnSource, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		for _, do := range also {
			if err := do(); err != nil {
				return err
			}
		}
		d, err := slot.GetDatabase(ctx, s.OnSource)
		if err != nil {
			return err
		}
		record, err := d.Record(nil)
		if err != nil {
			return err
		}
		back, err := restoring(ctx, s, f, d.Name)
		if err == nil {
			_, err = tx.Exec(ctx, record+"; "+back)
		}
		return err
	})
	return session.Denied(s.Source.Explain(err), "The role must own the source's database.")
}
