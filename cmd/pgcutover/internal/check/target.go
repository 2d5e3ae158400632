package check

import (
	"errors"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

func (c *checker) empty() error {
	var f *fault.Error
	if err := progress.Trust(c.ctx, c.t); errors.As(err, &f) {
		c.fail("target-state", f.Hint, "%v", f)
		return nil
	} else if err != nil {
		return err
	}
	streams, err := progress.Streams(c.ctx, c.t, c.m.Slot)
	if err != nil {
		return err
	}
	if len(streams) > 0 {
		c.ok("target-not-empty", "the target has been loaded in part or as a whole: %s", streams[0].LoadStatus)
		if len(streams) == 1 {
			return c.missing(streams[0])
		}
		return nil
	}
	var n int64
	err = c.t.QueryRow(c.ctx, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
		AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast)'
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')`).Scan(&n)
	if err != nil {
		return err
	}
	if n > 0 {
		c.warn("target-not-empty", "Use an empty database, or load with pgextract --data-only into empty tables.",
			"the target has %s already", count.Of(n, "table"))
	} else {
		c.ok("target-not-empty", "the target is empty")
	}
	return nil
}

// missing looks for tables that were created on the source after the load, and for loaded tables
// that are not published completely.
func (c *checker) missing(stream *progress.Stream) error {
	tables, err := progress.Tables(c.ctx, c.t, stream.ID)
	if err != nil {
		return err
	}
	of := (&session.Session{Migration: c.m, OnSource: c.s, OnTarget: c.t}).Of(stream)
	if of.CheckSource(c.ctx) != nil {
		return nil // the state is another source's
	}
	if stream.Ended || stream.Key.Slot == "" {
		return nil
	}
	list, err := coverage.Compare(c.ctx, of, tables)
	if err != nil {
		return err
	}
	missing, uncarried, _ := coverage.Sort(list)
	if len(missing) > 0 {
		says, remedy := coverage.MissingText(of.Slot, missing)
		c.warn("tables-missing", remedy, "%s", says)
	}
	if len(uncarried) > 0 {
		says, remedy := coverage.UncarriedText(of.Slot, uncarried)
		c.fail("changes-lost", remedy, "changes do not reach the target, or did not: %s", says)
	}
	return nil
}
