package steps

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// sequences sets the target's sequences to the source's values. It uses the pairs that prepare has
// recorded, unless sequences have been created, dropped or given to other columns since.
func sequences(ctx context.Context, s *session.Session, done []progress.Step) (int, error) {
	pairs, err := recordedPairs(ctx, s, done)
	if err == nil && pairs != nil {
		n, err := setSequences(ctx, s, pairs)
		if err == nil || waiting.IsLockTimeout(err) || s.OnTarget.IsClosed() || s.OnSource.IsClosed() {
			return n, err
		}
		// Somebody may have replaced a sequence of the target.
	}
	if err != nil {
		return 0, err
	}
	pairs, absent, err := pairSequences(ctx, s)
	if err != nil {
		return 0, err
	}
	if len(absent) > 0 {
		s.Log.Warn(fmt.Sprintf("skipping sequences of the source that do not exist on the target: %s", count.Some(absent)))
	}
	return setSequences(ctx, s, pairs)
}

// recordedPairs returns the pairs that prepare has recorded, or nil if they may not be right any
// more.
func recordedPairs(ctx context.Context, s *session.Session, done []progress.Step) (pairs []progress.SequencePair, err error) {
	p := session.Done(done, "prepare")
	if p == nil || p.Stamp == "" {
		return nil, nil
	}
	stamp, err := sequenceStamp(ctx, s)
	if err != nil || stamp != p.Stamp {
		return nil, err
	}
	if s.Warm != nil && s.Warm.Stamp == stamp {
		return s.Warm.Pairs, nil
	}
	pairs, err = progress.SequencePairs(ctx, s.OnTarget, s.Stream.ID)
	return pairs, s.Target.Explain(err)
}

// sequenceStamp returns the state of what decides which sequence of the target takes the value of
// which one of the source.
func sequenceStamp(ctx context.Context, s *session.Session) (string, error) {
	var stamps [2]string
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		stamps[0], err = inventory.SequenceStamp(gctx, s.OnSource)
		return s.Source.Explain(err)
	})
	g.Go(func() (err error) {
		stamps[1], err = inventory.SequenceStamp(gctx, s.OnTarget)
		return s.Target.Explain(err)
	})
	err := g.Wait()
	return stamps[0] + " " + stamps[1], err
}

// pairSequences finds the sequence of the target for each one of the source. It matches a sequence
// that feeds a column by that column, whatever the sequence's name. It returns the names of those
// that the target does not have: the user allowed that, or the load left them out. But no column of
// a migrated table may draw from a sequence that is not set: it would get the same values twice.
func pairSequences(ctx context.Context, s *session.Session) (pairs []progress.SequencePair, absent []string, err error) {
	list, err := catalog.SequenceNames(ctx, s.OnSource)
	if err != nil {
		return nil, nil, s.Source.Explain(err)
	}
	match, err := matchSequences(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	oids, err := match.oids(ctx, s, list)
	if err != nil {
		return nil, nil, s.Target.Explain(err)
	}
	for i, q := range list {
		to := match.on(catalog.Name{Schema: q.Schema, Name: q.Name})
		switch {
		case !q.Known:
			return nil, nil, fault.New(fault.Permission, "could not read the state of sequence %s.%s on the source", q.Schema, q.Name).
				WithHint("GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO …", text.Ident(q.Schema))
		case oids[i] == 0:
			absent = append(absent, to.Schema+"."+to.Name)
		default:
			pairs = append(pairs, progress.SequencePair{Source: q.OID, SourceSchema: q.Schema, SourceName: q.Name,
				Schema: to.Schema, Name: to.Name, Target: oids[i]})
		}
	}
	return pairs, absent, match.requireAll(ctx, s)
}

// oids returns the OIDs of the target's sequences for those of the source, 0 if there is none.
func (m *sequenceMatch) oids(ctx context.Context, s *session.Session, list []catalog.Sequence) ([]uint32, error) {
	schemas, names := make([]string, len(list)), make([]string, len(list))
	for i, q := range list {
		to := m.on(catalog.Name{Schema: q.Schema, Name: q.Name})
		schemas[i], names[i] = to.Schema, to.Name
	}
	rows, err := s.OnTarget.Query(ctx, `SELECT coalesce(c.oid, 0) FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) WITH ORDINALITY v(s, n, i)
		LEFT JOIN pg_catalog.pg_namespace x ON x.nspname = v.s LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = x.oid AND c.relname = v.n AND c.relkind = 'S' ORDER BY v.i`, schemas, names)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
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
