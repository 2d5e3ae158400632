package progress

import "fmt"

// MadeByStatement stands for the snapshot of a table that was not loaded. A statement that the
// source recorded created the table, so the change stream carries all of its rows.
const MadeByStatement = "recorded"

// AddRecordedSQL returns the statement that records a table created by a recorded statement. It
// replaces an earlier table of the same name. No changes of the new table are in a snapshot.
func AddRecordedSQL(stream int32, schema, table string) string {
	return fmt.Sprintf(`INSERT INTO pgsluice.tables (stream_id, schema_name, table_name, source_schema, source_table, status, snapshot, loaded_at)
		VALUES (%d, %s, %s, %[2]s, %[3]s, 'loaded', '%[4]s', pg_catalog.clock_timestamp()) ON CONFLICT (stream_id, schema_name, table_name)
		DO UPDATE SET status = 'loaded', snapshot = '%[4]s', snapshot_lsn = NULL, source_oid = NULL, counted = NULL, error = NULL`, stream, Literal(schema), Literal(table), MadeByStatement)
}
