package slot

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// Plugin returns the output plugin for a new slot on a server of a version. wanted is the name of a
// plugin, or auto.
func Plugin(wanted string, version int) (string, error) {
	switch {
	case wanted == TestDecoding || wanted == "auto" && version < old.Newest:
		return TestDecoding, nil
	case version < old.Newest:
		return "", fault.New(fault.Config, "PostgreSQL %s has no output plugin pgoutput", pgdial.VersionText(version)).
			WithHint("Leave out --plugin: the slot then has test_decoding.")
	}
	return PGOutput, nil
}

// RequireCarries returns an error if a slot of this plugin cannot carry what the publications say:
// test_decoding knows no publications.
func RequireCarries(ctx context.Context, c *pgx.Conn, plugin string, publications []string) error {
	if plugin != TestDecoding {
		return nil
	}
	v := pgdial.Version(c.PgConn())
	narrow := "false"
	if v >= 130000 {
		narrow = "p.pubviaroot"
	}
	if v >= 150000 {
		narrow += " OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL))"
	}
	rows, err := c.Query(ctx, "SELECT p.pubname::pg_catalog.text FROM pg_catalog.pg_publication p WHERE p.pubname = ANY ($1::pg_catalog.text[]) AND ("+narrow+") ORDER BY 1", publications)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(names) > 0 {
		return fault.New(fault.Config, "publication %q has row filters, column lists or publish_via_partition_root, which test_decoding does not know", names[0]).
			WithHint("Choose another publication, or create the slot with pgoutput.")
	}
	return err
}
