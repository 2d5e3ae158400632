package main

import (
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A large table is summed in ranges of pages, which differ between the sides, and a rate is kept.
func TestVerifyParts_P4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	source.Exec("CREATE TABLE large (id int PRIMARY KEY, v text)", "INSERT INTO large SELECT i, repeat('x', 1000) FROM generate_series(1, 36000) i",
		"CREATE TABLE small (id int PRIMARY KEY, v text)", "INSERT INTO small SELECT i, NULLIF(i, 7)::text FROM generate_series(1, 3000) i")
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	target.Exec("DELETE FROM large WHERE id < 10000", "INSERT INTO large SELECT i, repeat('x', 1000) FROM generate_series(1, 9999) i") // at other places
	const scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'large'"
	before := target.Query(scans)
	out, _ := m.cut(0, "verify", "--jobs", "4")
	says(t, out, "equal\tpublic.large\t36000\n", "equal\tpublic.small\t3000\n")
	if after := target.Query(scans); target.Major >= 14 && after != before {
		t.Errorf("the whole table was read: %s scans, then %s", before, after)
	}
	target.Exec("UPDATE large SET v = v || 'x' WHERE id = 36000")
	out, _ = m.cut(1, "verify", "--jobs", "4", "--only-different")
	says(t, out, "different\tpublic.large\t36000 rows on the source, 36000 on the target\n", "row\tpublic.large\t(36000)\tdifferent\n")

	target.Exec("UPDATE large SET v = repeat('x', 1000) WHERE id = 36000")
	began := time.Now()
	m.cut(0, "verify")
	unlimited := time.Since(began)
	began = time.Now()
	m.cut(0, "verify", "--rate", "13000", "--jobs", "3")
	const want = 3 * time.Second // for 39,000 rows
	if took := time.Since(began); took < want*9/10 || took > want*11/10+unlimited {
		t.Errorf("%v instead of %v; without a limit %v", took, want, unlimited)
	}
	target.Exec("UPDATE small SET v = '' WHERE id = 7")
	out, _ = m.cut(1, "verify", "--rate", "100000")
	says(t, out, "different\tpublic.small\t3000 rows", "row\tpublic.small\t(7)\tdifferent\n")
}
