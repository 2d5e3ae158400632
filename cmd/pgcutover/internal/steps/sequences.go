package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// sequences sets the target's sequences to the state of the source's. One that belongs to a column,
// or feeds one, is the column's, whatever it is called. Left out are those that the target does not
// have: whoever came here has allowed that, or the load was told to. But no column of a table that
// was migrated may take its values from a sequence that was not set: it would give some twice.
func (m *Migration) sequences(ctx context.Context, c, t *pgx.Conn, stream int32) (int, error) {
	list, err := catalog.Sequences(ctx, c)
	if err != nil {
		return 0, m.Source.Explain(err)
	}
	source, err := inventory.Sequences(ctx, c)
	if err != nil {
		return 0, m.Source.Explain(err)
	}
	target, err := inventory.Sequences(ctx, t)
	if err != nil {
		return 0, m.Target.Explain(err)
	}
	renames, tables, err := m.renames(ctx, t, stream)
	if err != nil {
		return 0, err
	}
	match := ledger.MatchSequences(source, target, renames)
	known := make(map[catalog.Name]*inventory.Object, len(source))
	for i := range source {
		known[catalog.Name{Schema: source[i].Schema, Name: source[i].Name}] = &source[i]
	}
	var batch pgx.Batch
	var missing []string
	n := 0
	for i, s := range list {
		if i%locksAtOnce == 0 {
			// all of them at once would be more locks than a target may have room for
			if i > 0 {
				batch.Queue("COMMIT")
			}
			batch.Queue("BEGIN")
		}
		if !s.Known {
			return 0, fault.New(fault.Permission, "could not read the state of sequence %s.%s on the source", s.Schema, s.Name).
				WithHint("GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO …", text.Ident(s.Schema))
		}
		o := known[catalog.Name{Schema: s.Schema, Name: s.Name}]
		if o == nil { // of an extension
			o = &inventory.Object{Key: inventory.Key{Class: inventory.Sequence, Schema: s.Schema, Name: s.Name}}
		}
		if on := match.Find(o); on != nil {
			s.Schema, s.Name = on.Schema, on.Name
		} else if to, ok := renames.Schemas[s.Schema]; ok {
			s.Schema = to
		}
		name := pgx.Identifier{s.Schema, s.Name}.Sanitize()
		batch.Queue("SELECT pg_catalog.setval(pg_catalog.to_regclass($1)::pg_catalog.regclass, $2, $3) IS NOT NULL",
			name, s.LastValue, s.IsCalled).QueryRow(func(row pgx.Row) error {
			var set bool
			err := row.Scan(&set)
			var pg *pgconn.PgError
			switch {
			case errors.As(err, &pg) && pg.Code == "22003":
				return fault.New(fault.Failed,
					"sequence %s.%s of the target cannot take the source's value %d: %w", s.Schema, s.Name,
					s.LastValue, err).
					WithHint("ALTER SEQUENCE %s AS bigint (and the column that it feeds), or MAXVALUE …, on the target; then run open again.",
						text.Ident(s.Schema, s.Name))
			case err != nil:
				return fmt.Errorf("set sequence %s.%s: %w", s.Schema, s.Name, err)
			case set:
				n++
			default:
				missing = append(missing, s.Schema+"."+s.Name)
			}
			return nil
		})
	}
	if len(list) > 0 {
		batch.Queue("COMMIT")
	}
	if err := t.SendBatch(ctx, &batch).Close(); err != nil {
		_, _ = t.Exec(ctx, "ROLLBACK") // it may be tried again
		return 0, m.Target.Explain(err)
	}
	allowed, err := progress.Allowed(ctx, t, stream)
	if err != nil {
		return 0, m.Target.Explain(err)
	}
	var names []string
	for _, l := range match.Left(tables) {
		if !allowed[l.ID()] {
			names = append(names, l.Sequence.String()+" of "+l.Column)
		}
	}
	if len(names) > 0 {
		return 0, fault.New(fault.Config,
			"sequences of the target that no sequence of the source sets would give values twice: %s",
			some(names)).
			WithHint("Give these columns the default that they have on the source, or set the sequences by hand and say so: pgcutover missing --slot %s", m.Slot)
	}
	if len(missing) > 0 {
		m.Log.Warn(fmt.Sprintf("sequences of the source that the target does not have are left out: %s", some(missing)))
	}
	return n, nil
}

// renames returns what is called otherwise on the target, and the tables there that were migrated.
func (m *Migration) renames(ctx context.Context, t *pgx.Conn, stream int32) (r ledger.Renames, there map[[2]string]bool, err error) {
	if r.Schemas, err = progress.RenamedSchemas(ctx, t, stream); err != nil {
		return r, nil, m.Target.Explain(err)
	}
	tables, err := progress.Tables(ctx, t, stream)
	if err != nil {
		return r, nil, m.Target.Explain(err)
	}
	r.Tables, there = make(map[[2]string][2]string), make(map[[2]string]bool)
	for _, x := range tables {
		there[[2]string{x.Schema, x.Table}] = true
		if x.Schema != x.SourceSchema || x.Table != x.SourceTable {
			r.Tables[[2]string{x.SourceSchema, x.SourceTable}] = [2]string{x.Schema, x.Table}
		}
	}
	return r, there, nil
}
