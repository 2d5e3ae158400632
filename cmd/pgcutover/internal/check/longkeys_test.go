package check

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Only the versions that leave long keys out of updates are asked for tables that may have some,
// and they name no table with short keys.
func TestLongKeys(t *testing.T) {
	t.Parallel()
	for version, want := range map[int]bool{90605: true, 90624: true, 100019: true, 100020: false, 110014: true, 110015: false, 120009: true, 120010: false,
		130005: true, 130006: false, 140001: true, 140002: false, 150000: false, 180001: false} {
		if got := leavesOutKeys(version); got != want {
			t.Errorf("%d: %v", version, got)
		}
		if got := strings.Contains(keys(version), longKeys); got != want {
			t.Errorf("%d: the query is asked: %v", version, got)
		}
	}
	db := pgtest.Source(t).Database(t, "")
	db.Exec("CREATE TABLE long (id text PRIMARY KEY)", "CREATE TABLE short (id varchar(6) PRIMARY KEY, v text)",
		"CREATE TABLE number (id numeric, v text, PRIMARY KEY (id))", "CREATE TABLE whole (id text PRIMARY KEY); ALTER TABLE whole REPLICA IDENTITY FULL",
		`CREATE TABLE chosen (id int PRIMARY KEY, a text NOT NULL COLLATE "C", b bytea NOT NULL); CREATE UNIQUE INDEX i ON chosen (b); ALTER TABLE chosen REPLICA IDENTITY USING INDEX i`,
		`CREATE TABLE other (id int PRIMARY KEY, a text UNIQUE)`)
	if got := db.Query("SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT NULL, NULL WHERE false" + longKeys + ") s(k, x)"); got != "public.chosen public.long" {
		t.Error(got)
	}
	c := &checker{sv: 130005}
	if c.keys([][]string{{"long", "public.long"}}, nil); len(c.list) != 1 || c.list[0].ID != "long-keys" || c.list[0].Severity != warning {
		t.Error(c.list)
	}
}
