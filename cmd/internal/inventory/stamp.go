package inventory

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// stamped lists the catalogs that Read reads, except those that not every role may read.
var stamped = []string{"pg_am", "pg_amop", "pg_amproc", "pg_attrdef", "pg_attribute", "pg_cast", "pg_class",
	"pg_collation", "pg_constraint", "pg_conversion", "pg_default_acl", "pg_description", "pg_enum",
	"pg_event_trigger", "pg_extension", "pg_foreign_data_wrapper", "pg_foreign_server", "pg_foreign_table",
	"pg_index", "pg_inherits", "pg_language", "pg_namespace", "pg_opclass",
	"pg_operator", "pg_opfamily", "pg_partitioned_table", "pg_policy", "pg_proc", "pg_publication",
	"pg_publication_rel", "pg_range", "pg_rewrite", "pg_seclabel", "pg_sequence",
	"pg_statistic_ext", "pg_transform", "pg_trigger", "pg_ts_config", "pg_ts_config_map", "pg_ts_dict",
	"pg_ts_parser", "pg_ts_template", "pg_type"}

// Stamp returns a value that changes whenever a statement changes the schema of a database. It is
// computed from the row versions in the catalogs, and takes a small part of the time that Read
// takes.
func Stamp(ctx context.Context, c *pgx.Conn) (stamp string, err error) {
	parts := make([]string, len(stamped))
	for i, catalog := range stamped {
		parts[i] = "(SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(t.xmin, t.ctid)))) FROM pg_catalog." +
			catalog + " t)"
	}
	err = c.QueryRow(ctx, "SELECT pg_catalog.md5(pg_catalog.concat_ws(',', "+strings.Join(parts, ", ")+"))").Scan(&stamp)
	return stamp, err
}
