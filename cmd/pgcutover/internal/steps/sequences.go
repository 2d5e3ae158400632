package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// sequences sets the target's sequences to the source's values. It matches a sequence that feeds a
// column by that column, whatever the sequence's name. It skips sequences that the target does not
// have: the user allowed that, or the load left them out. But no column of a migrated table may
// draw from a sequence that was not set: it would get the same values twice.
func sequences(ctx context.Context, s *session.Session) (int, error) {
	list, err := catalog.Sequences(ctx, s.OnSource)
	if err != nil {
		return 0, s.Source.Explain(err)
	}
	match, err := matchSequences(ctx, s)
	if err != nil {
		return 0, err
	}
	n, absent, err := setSequences(ctx, s, list, match)
	if err != nil {
		return 0, err
	}
	if err := match.requireAll(ctx, s); err != nil {
		return 0, err
	}
	if len(absent) > 0 {
		s.Log.Warn(fmt.Sprintf("skipping sequences of the source that do not exist on the target: %s", count.Some(absent)))
	}
	return n, nil
}

// A sequenceMatch maps sequences of the source to those of the target.
type sequenceMatch struct {
	*ledger.Sequences
	known   map[catalog.Name]*inventory.Object // the source's objects
	renames ledger.Renames
	tables  map[[2]string]bool // the target's tables that were migrated
}

func matchSequences(ctx context.Context, s *session.Session) (*sequenceMatch, error) {
	source, err := inventory.Sequences(ctx, s.OnSource)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	target, err := inventory.Sequences(ctx, s.OnTarget)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	m := new(sequenceMatch)
	if m.renames, m.tables, err = missing.Renames(ctx, s); err != nil {
		return nil, err
	}
	m.Sequences = ledger.MatchSequences(source, target, m.renames)
	m.known = make(map[catalog.Name]*inventory.Object, len(source))
	for i := range source {
		m.known[catalog.Name{Schema: source[i].Schema, Name: source[i].Name}] = &source[i]
	}
	return m, nil
}

// on returns the name of a sequence on the target.
func (m *sequenceMatch) on(n catalog.Name) catalog.Name {
	o := m.known[n]
	if o == nil { // an extension's sequence
		o = &inventory.Object{Key: inventory.Key{Class: inventory.Sequence, Schema: n.Schema, Name: n.Name}}
	}
	if on := m.Find(o); on != nil {
		return catalog.Name{Schema: on.Schema, Name: on.Name}
	}
	if to, ok := m.renames.Schemas[n.Schema]; ok {
		n.Schema = to
	}
	return n
}

// setSequences sets the target's sequences. It returns how many it set, and the missing ones.
func setSequences(ctx context.Context, s *session.Session, list []catalog.Sequence,
	match *sequenceMatch) (n int, absent []string, err error) {
	var batch pgx.Batch
	for i, q := range list {
		if i%session.LocksAtOnce == 0 {
			// One transaction for all sequences could need more locks than the target has room for.
			if i > 0 {
				batch.Queue("COMMIT")
			}
			batch.Queue("BEGIN")
		}
		if !q.Known {
			return 0, nil, fault.New(fault.Permission, "could not read the state of sequence %s.%s on the source", q.Schema, q.Name).
				WithHint("GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO …", text.Ident(q.Schema))
		}
		to := match.on(catalog.Name{Schema: q.Schema, Name: q.Name})
		name := pgx.Identifier{to.Schema, to.Name}.Sanitize()
		batch.Queue("SELECT pg_catalog.setval(pg_catalog.to_regclass($1)::pg_catalog.regclass, $2, $3) IS NOT NULL",
			name, q.LastValue, q.IsCalled).QueryRow(func(row pgx.Row) error {
			var set bool
			err := row.Scan(&set)
			var pg *pgconn.PgError
			switch {
			case errors.As(err, &pg) && pg.Code == "22003":
				return fault.New(fault.Failed,
					"sequence %s.%s of the target cannot take the source's value %d: %w", to.Schema, to.Name,
					q.LastValue, err).
					WithHint("ALTER SEQUENCE %s AS bigint (and the column that it feeds), or MAXVALUE …, on the target; then run open again.",
						text.Ident(to.Schema, to.Name))
			case err != nil:
				return fmt.Errorf("set sequence %s.%s: %w", to.Schema, to.Name, err)
			case set:
				n++
			default:
				absent = append(absent, to.Schema+"."+to.Name)
			}
			return nil
		})
	}
	if len(list) > 0 {
		batch.Queue("COMMIT")
	}
	if err := s.OnTarget.SendBatch(ctx, &batch).Close(); err != nil {
		_, _ = s.OnTarget.Exec(ctx, "ROLLBACK") // the caller may try again
		return 0, nil, s.Target.Explain(err)
	}
	return n, absent, nil
}

// requireAll refuses a target on which columns draw from sequences that were not set.
func (m *sequenceMatch) requireAll(ctx context.Context, s *session.Session) error {
	allowed, err := progress.Allowed(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	var names []string
	for _, l := range m.Left(m.tables) {
		if !allowed[l.ID()] {
			names = append(names, l.Sequence.String()+" of "+l.Column)
		}
	}
	if len(names) > 0 {
		return fault.New(fault.Config,
			"sequences of the target that no sequence of the source sets would give values twice: %s",
			count.Some(names)).
			WithHint("Give these columns the default that they have on the source. Or set the sequences yourself and accept them; to see how: pgcutover missing --slot %s", s.Slot)
	}
	return nil
}
