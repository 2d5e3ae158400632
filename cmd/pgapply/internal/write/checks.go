package write

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// takeOffChecks takes the CHECK constraints off that rows may not pass before all rows are there,
// or not here and now, as those may not whose functions look at tables. Those of a table that could
// not be loaded for whatever reason are all taken off. They come back when all rows are there, and
// are checked then.
func (l *Loader) takeOffChecks(tables []*loadTable) error {
	var coming, again []uint32
	for _, t := range tables {
		switch {
		case t.target == nil || t.state.Complete() && !l.Reload:
		case t.state.Status == "error":
			again = append(again, t.target.OID)
		default:
			coming = append(coming, t.target.OID)
		}
	}
	if err := l.takeChecks(coming, false); err != nil {
		return err
	}
	return l.takeChecks(again, true)
}

func (l *Loader) takeChecks(oids []uint32, all bool) error {
	if len(oids) == 0 {
		return nil
	}
	// A constraint of a table that has it by itself as well stays there when the one that it
	// inherits goes.
	const generations = 5
	for range generations {
		list, err := catalog.Checks(l.ctx, l.Control, oids, all)
		if err != nil {
			return l.Server.Explain(err)
		}
		if len(list) > 0 && !l.schemaLocked {
			if err := l.lockSchema(); err != nil {
				return err
			}
			continue // another process may have taken them off
		}
		taken := false
		for _, k := range list {
			err := pgx.BeginFunc(l.ctx, l.Control, func(tx pgx.Tx) error {
				return l.takeAs(tx, k.Definition, "CHECK CONSTRAINT", checkName(k), progress.PhaseLoad, k.Drop)
			})
			var pg *pgconn.PgError
			if errors.As(err, &pg) && objects.Refused(err) {
				continue // without the right to take it off, we shall see
			}
			if err != nil {
				return l.Server.Explain(err)
			}
			taken = true
		}
		if !taken {
			return nil
		}
	}
	return nil
}

// checkName is how pg_dump names a constraint: with the table's, or domain's, name before it.
func checkName(k catalog.Check) string {
	if k.Table == "" {
		return k.Name
	}
	return k.Table + " " + k.Name
}
