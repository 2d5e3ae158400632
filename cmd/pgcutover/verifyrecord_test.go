package main

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A difference that was found counts and is recorded, although the rows cannot be shown: here the
// server has no room to sort them.
func TestVerifyRecordsFirst(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := small(t, source, target)
	source.Exec("INSERT INTO log SELECT md5(g::text) FROM generate_series(1, 30000) g")
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	target.Exec("UPDATE log SET line = 'spoiled' WHERE line = 'a'", "ALTER DATABASE "+target.Name+" SET temp_file_limit = '1MB'", "ALTER DATABASE "+target.Name+" SET work_mem = '64kB'")
	out, errs := m.cut(1, "verify", "--only-different")
	says(t, out, "different\tpublic.log\t30002 rows")
	says(t, errs, "1 of 1 table differs: public.log", "could not be shown: ", "temp_file_limit")
	if got, _ := m.cut(0, "status", "--get", "verified"); got != "differs\n" {
		t.Errorf("status says %s of the rows", got)
	}
}
