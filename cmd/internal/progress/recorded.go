package progress

import "fmt"

// MadeByStatement is the snapshot of a table that was not loaded: a statement which the source has
// recorded has made it, so that all of its rows come with the changes.
const MadeByStatement = "recorded"

// AddRecordedSQL is the statement that remembers a table which a recorded statement has made, also
// in the place of another one that had its name.
func AddRecordedSQL(stream int32, schema, table string) string {
	return fmt.Sprintf(`INSERT INTO pgsluice.tables (stream_id, schema_name, table_name, source_schema, source_table, status, snapshot, loaded_at)
		VALUES (%d, %s, %s, %[2]s, %[3]s, 'loaded', '%[4]s', pg_catalog.clock_timestamp()) ON CONFLICT (stream_id, schema_name, table_name)
		DO UPDATE SET status = 'loaded', snapshot = '%[4]s', source_oid = NULL, error = NULL`, stream, Literal(schema), Literal(table), MadeByStatement)
}
