package write

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// setAtOnce is how many sequences one transaction sets. Each takes a lock.
const setAtOnce = 16

// Sequence takes a sequence's state. Finish sets it, because the statement that creates the
// sequence may come later.
func (l *Loader) Sequence(r *format.Sequence) error {
	if err := l.flush(); err != nil {
		return err
	}
	if err := Writable(r.Kind(), r.Schema, r.Name); err != nil {
		return err
	}
	later := *r
	l.sequences = append(l.sequences, &later)
	return nil
}

// setSequences sets all sequences, a few in each transaction. If the server refuses one, it sets
// these one by one.
func (l *Loader) setSequences() error {
	for some := range slices.Chunk(l.sequences, setAtOnce) {
		var names []string
		var last []int64
		var called []bool
		for _, r := range some {
			schema, name := l.Mapper.Target(r.Schema, r.Name)
			names = append(names, plan.QuoteIdent(schema)+"."+plan.QuoteIdent(name))
			last, called = append(last, r.LastValue), append(called, r.IsCalled)
		}
		if _, err := l.Control.Exec(l.ctx, `SELECT pg_catalog.setval(x.name::pg_catalog.regclass, x.last, x.called)
			FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.int8[]), pg_catalog.unnest($3::pg_catalog.bool[])) x (name, last, called)`,
			names, last, called); err == nil {
			continue
		}
		for _, r := range some {
			err := l.setSequence(r)
			if noRelation(err) && len(l.lost) > 0 {
				// The sequence could not be created, and its table failed with it.
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// noRelation reports whether an error says that a relation or its schema does not exist.
func noRelation(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000")
}

func (l *Loader) setSequence(r *format.Sequence) error {
	schema, name := l.Mapper.Target(r.Schema, r.Name)
	return SetSequence(l.ctx, l.Control, l.Server, schema, name, r.LastValue, r.IsCalled)
}

// SetSequence sets the state of a sequence of the target.
func SetSequence(ctx context.Context, c *pgx.Conn, server pgdial.Server, schema, name string, last int64, called bool) error {
	_, err := c.Exec(ctx, "SELECT pg_catalog.setval($1::pg_catalog.text::pg_catalog.regclass, $2, $3)",
		plan.QuoteIdent(schema)+"."+plan.QuoteIdent(name), last, called)
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "22003" {
		return fault.New(fault.Failed, "sequence %s.%s cannot take the source's value %d: %w", schema, name, last, err).
			WithHint("The sequence on the target has a smaller type or range: ALTER SEQUENCE … AS bigint, or MAXVALUE …")
	}
	err = fmt.Errorf("set sequence %s.%s: %w", schema, name, err)
	if errors.As(err, &pg) && pg.Code == "42P01" {
		return fault.New(fault.Config, "%w", err).
			WithHint("Create it on the target as it is on the source, then start again with pgextract --resume.")
	}
	return server.Explain(err)
}
