package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
)

// fromCitus refuses a source whose rows have their changes in the WAL of other servers.
func (c *checker) fromCitus() error {
	list, err := citus.InShards(c.ctx, c.s)
	if err == nil && len(list) > 0 {
		c.fail("citus-source", "Leave out its distributed tables (pgextract --exclude-table), or do not migrate it with pgsluice.",
			"the source is a Citus cluster: changes of its distributed tables are in the WAL of its workers, where no slot finds them")
	}
	return err
}

// toCitus says what is different on a target that is a Citus cluster.
func (c *checker) toCitus() error {
	p, err := citus.Look(c.ctx, c.t)
	if err != nil || p == nil {
		return err
	}
	c.cluster = true
	if p.Worker {
		c.fail("citus-worker", "Connect to the coordinator.", "the target is a worker of a Citus cluster")
		return nil
	}
	c.note("citus", "the target is a Citus cluster (version %s): what a load creates is on its coordinator alone. To distribute tables, create the schema by hand, and load with pgextract --data-only. See docs/citus.md",
		p.Version)
	return c.citusKeys()
}

// identityColumns selects tables and the columns by which updates and deletes identify their rows.
const identityColumns = `SELECT n.nspname || '.' || c.relname, CASE c.relreplident WHEN 'f' THEN NULL ELSE coalesce((SELECT pg_catalog.array_agg(a.attname::pg_catalog.text) FROM pg_catalog.pg_index i
		JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
		WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END), '{}') END
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')`

// citusKeys names the tables whose updates and deletes do not say which shard has the row.
func (c *checker) citusKeys() error {
	distributed, err := citus.Distributed(c.ctx, c.t)
	if err != nil {
		return err
	}
	rows, err := c.s.Query(c.ctx, identityColumns)
	if err != nil {
		return err
	}
	var list []string
	var name string
	var columns []string
	_, err = pgx.ForEachRow(rows, []any{&name, &columns}, func() error {
		if by := distributed[name]; by != "" && columns != nil && !slices.Contains(columns, by) {
			list = append(list, fmt.Sprintf("%s (%s)", name, by))
		}
		return nil
	})
	if err == nil && len(list) > 0 {
		slices.SortFunc(list, strings.Compare)
		c.warn("citus-keys", "On the source, add the column to the primary key, or ALTER TABLE … REPLICA IDENTITY FULL. At least, create an index on the source's key on the target: each shard is searched by it.",
			"the replica identity of %s does not include the distribution column that the target has, so that each update and delete goes to all shards: %s",
			count.Of(len(list), "table"), count.Some(list))
	}
	return err
}
