package e2e

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Managed services take connections over TLS only. Everything works there as it does without,
// pg_dump included.
func TestTLS(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	settings, certificate := pgtest.TLS(t)
	start := func(major int) *pgtest.DB {
		d := pgtest.Start(t, major, settings...).Database(t, "")
		d.URI = strings.Replace(d.URI, "sslmode=disable", "sslmode=verify-full&sslrootcert="+certificate, 1)
		return d
	}
	source, target := start(pgtest.Source(t).Major), start(pgtest.Target(t).Major)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 50000) g")
	env := pgtest.NewEnv(t, source, target)
	env.Bash(`pgextract --slot "$1" | pgapply`, source.Name)
	sync := startSync(env, source)
	source.Exec("UPDATE t SET b = repeat('y', 3000) WHERE a % 3 = 0", "DELETE FROM t WHERE a % 7 = 0",
		"INSERT INTO t SELECT g, 'new' FROM generate_series(50001, 90000) g")
	env.Must(nil, "pgcutover", "wait", "caught-up", "--lag", "0", "--timeout", "60s")
	for _, d := range []*pgtest.DB{source, target} {
		if got := d.Query("SELECT string_agg(DISTINCT application_name, ' ') FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE NOT ssl AND application_name LIKE 'pg%'"); got != "NULL" {
			t.Errorf("not encrypted: %s", got)
		}
	}
	pgtest.Equal(t, source, target)
	stopSync(t, sync)
}
