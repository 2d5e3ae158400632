package write

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// takeOffChecks drops the CHECK constraints that valid rows may fail before all rows are loaded, or
// at this time and on this server. Constraints whose functions read tables are an example. Of a
// table that an earlier run could not load for any reason, takeOffChecks drops all CHECK
// constraints. They are created again, and checked, when all rows are loaded.
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
	// A table may have its own copy of a constraint that it inherits. Dropping the parent's
	// constraint leaves that copy for the next round.
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
			continue // another process may have dropped them
		}
		taken := false
		for _, k := range list {
			err := pgx.BeginFunc(l.ctx, l.Control, func(tx pgx.Tx) error {
				return l.takeAs(tx, k.Definition, "CHECK CONSTRAINT", checkName(k), progress.PhaseLoad, k.Drop)
			})
			var pg *pgconn.PgError
			if errors.As(err, &pg) && objects.Refused(err) {
				continue // the role may not drop it; the rows may still pass
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

// checkName returns a constraint's name as pg_dump writes it, after the name of its table or
// domain.
func checkName(k catalog.Check) string {
	if k.Table == "" {
		return k.Name
	}
	return k.Table + " " + k.Name
}
