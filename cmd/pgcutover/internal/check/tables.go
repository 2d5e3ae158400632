package check

import (
	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
)

func (c *checker) tables() error {
	state, err := carried.Tables(c.ctx, c.s, nil)
	if err != nil {
		return err
	}
	var noKey, unlogged, foreign []string
	tables := state.Rows()
	for _, t := range tables {
		why := t.Identity.Why(state.Version)
		switch {
		case t.Unlogged:
			unlogged = append(unlogged, t.String())
		case why != "":
			noKey = append(noKey, t.String()+" ("+why+")")
		}
	}
	c.ok("tables", "%s to be migrated", count.Of(len(tables), "table"))
	for _, t := range state.Detaching(func(*carried.Table) bool { return true }) {
		c.fail("detach-pending", state.Finalize(t)+
			";", "the DETACH CONCURRENTLY of %v is not finished: it is a partition for pg_dump, and none for the source's queries", t)
	}
	if len(noKey) > 0 {
		c.warn("replica-identity", "If their rows are updated or deleted during the migration, add a primary key, or ALTER TABLE … REPLICA IDENTITY FULL.",
			"%s without usable replica identity, of which only inserts and truncates are carried: %s",
			count.Of(len(noKey), "table"), count.Some(noKey))
	}
	if len(unlogged) > 0 {
		c.warn("unlogged-tables", "ALTER TABLE … SET LOGGED, or leave them alone during the migration.",
			"unlogged tables are loaded, but changes of them are not in the WAL: %s", count.Some(unlogged))
	}
	notOurs, err := c.s.Query(c.ctx, `SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast)'
		AND NOT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE') ORDER BY 1`)
	if err != nil {
		return err
	}
	if foreign, err = pgx.CollectRows(notOurs, pgx.RowTo[string]); err != nil {
		return err
	}
	if len(foreign) > 0 {
		f := c.fail("table-owners", "Only a table's owner may publish it: GRANT the owners' roles to the source's role, or give it what superusers own.",
			"the source's role does not own %s: %s", count.Of(len(foreign), "table"), count.Some(foreign))
		return c.ownersOf(f)
	}
	return nil
}
