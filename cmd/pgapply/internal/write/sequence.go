package write

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// Sequence sets a sequence's state.
func (l *Loader) Sequence(r *format.Sequence) error {
	if err := l.flush(); err != nil {
		return err
	}
	if err := Writable(r.Kind(), r.Schema, r.Name); err != nil {
		return err
	}
	err := l.setSequence(r)
	if noRelation(err) { // the statement that creates it may come later
		later := *r
		l.sequences = append(l.sequences, &later)
		return nil
	}
	return err
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
