package e2e

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// citusSchema is made on both sides by hand, and citusShards on the cluster.
const (
	citusSchema = `CREATE TABLE tenant (id int PRIMARY KEY, name text NOT NULL); CREATE TABLE country (code text PRIMARY KEY, name text, at date);
		CREATE TABLE item (tenant_id int NOT NULL, id bigint NOT NULL, country text, price numeric, at timestamptz, doc jsonb, raw bytea, PRIMARY KEY (tenant_id, id));
		CREATE INDEX item_at ON item (at); CREATE TABLE event (tenant_id int, what text, at timestamptz); CREATE TABLE local (id int PRIMARY KEY, v text);
		CREATE TABLE part (tenant_id int, day date, v text, PRIMARY KEY (tenant_id, day)) PARTITION BY RANGE (day);
		CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2024-01-01') TO ('2024-07-01'); CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2024-07-01') TO ('2030-01-01');
		CREATE TABLE made (tenant_id int, id int GENERATED ALWAYS AS IDENTITY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (tenant_id, id));
		CREATE TABLE other (id int, tenant_id int NOT NULL, v text, big text);`
	citusKeys = `ALTER TABLE item ADD CONSTRAINT item_tenant FOREIGN KEY (tenant_id) REFERENCES tenant (id) ON DELETE CASCADE;
		ALTER TABLE item ADD CONSTRAINT item_country FOREIGN KEY (country) REFERENCES country (code)`
	citusShards = `SELECT create_reference_table('country'); SELECT create_distributed_table('tenant', 'id');
		SELECT create_distributed_table('item', 'tenant_id', colocate_with => 'tenant'); SELECT create_distributed_table('event', 'tenant_id', colocate_with => 'none');
		SELECT create_distributed_table('part', 'tenant_id'); SELECT create_distributed_table('made', 'tenant_id'); SELECT create_distributed_table('other', 'tenant_id')`
	// The source finds rows of event by all columns, and those of other without the column that
	// distributes them.
	citusSource = `ALTER TABLE event REPLICA IDENTITY FULL; ALTER TABLE other ADD PRIMARY KEY (id), ALTER big SET STORAGE EXTERNAL;`
	citusRows   = `INSERT INTO tenant SELECT i, 'tenant ' || i FROM generate_series(1, 40) i; INSERT INTO country SELECT 'c' || i, 'country ' || i, '2024-01-01' FROM generate_series(1, 20) i;
		INSERT INTO item SELECT i % 40 + 1, i, 'c' || (i % 20 + 1), i / 7.0, timestamptz '2024-01-01' + i * interval '1 min', jsonb_build_object('i', i, 'more', repeat('x', i % 3000)), decode(md5(i::text), 'hex') FROM generate_series(1, 3000) i;
		INSERT INTO event SELECT i % 40 + 1, 'event ' || i % 5, '2024-01-01' FROM generate_series(1, 500) i; INSERT INTO local SELECT i, 'v' FROM generate_series(1, 50) i;
		INSERT INTO part SELECT i, date '2024-01-01' + i, 'v' FROM generate_series(1, 300) i; INSERT INTO made (tenant_id, a) SELECT i, i FROM generate_series(1, 50) i;
		INSERT INTO other SELECT i, i % 5, 'v', repeat(md5(i::text), 200) FROM generate_series(1, 100) i`
)

// A citusPair is a source and a cluster that has its schema.
type citusPair struct {
	t      *testing.T
	source *pgtest.DB
	target *pgtest.Cluster
	env    *pgtest.Env
}

func newCitusPair(t *testing.T) *citusPair {
	t.Helper()
	target := pgtest.Citus(t)
	source := pgtest.Source(t).Database(t, "")
	source.Exec(citusSchema+citusKeys, citusSource, citusRows)
	// Citus takes one change of the schema at a time.
	target.Exec(append([]string{citusSchema, citusShards}, strings.Split(citusKeys, ";")...)...)
	return &citusPair{t, source, target, pgtest.NewEnv(t, source, target.DB)}
}

// sync applies what the source has changed, and compares every row.
func (p *citusPair) sync(args string, statements ...string) {
	p.t.Helper()
	p.source.Exec(statements...)
	p.env.Bash(`pgdecode --slot "$1" --until now | pgapply `+args, p.source.Name)
	p.equal()
}

func (p *citusPair) equal() {
	p.t.Helper()
	for _, table := range []string{"tenant", "country", "item", "event", "local", "part_1", "part_2", "made", "other"} {
		pgtest.EqualTable(p.t, p.source, p.target.DB, table)
	}
}

// Rows are loaded into tables of each kind, changes of each kind are applied, and the target
// becomes the primary.
func TestCitus(t *testing.T) {
	t.Parallel()
	p := newCitusPair(t)
	p.env.Bash(`pgextract --slot "$1" --data-only | pgapply`, p.source.Name)
	p.equal()
	p.sync("",
		"INSERT INTO item SELECT i % 40 + 1, i, 'c1' FROM generate_series(5000, 5600) i; UPDATE item SET price = price + 1, at = at + interval '1 h' WHERE id % 3 = 0; DELETE FROM item WHERE id % 7 = 0",
		"UPDATE country SET name = 'x', at = '2025-01-01' WHERE code > 'c2'; DELETE FROM item WHERE country = 'c5'; DELETE FROM country WHERE code = 'c5'; INSERT INTO country VALUES ('new', 'new')",
		"DELETE FROM tenant WHERE id = 7; UPDATE local SET v = 'w' WHERE id > 10; INSERT INTO local VALUES (100, 'x')",
		"INSERT INTO item VALUES (1, 9001, 'c1', 1.5, now(), '{}', NULL)", "UPDATE item SET doc = NULL WHERE id = 9001", "DELETE FROM item WHERE id = 9001",
		"UPDATE event SET what = 'changed' WHERE tenant_id = 3; DELETE FROM event WHERE tenant_id = 4 AND what = 'event 3'",
		"UPDATE part SET v = 'w' WHERE tenant_id % 2 = 0; DELETE FROM part WHERE tenant_id % 7 = 0", "UPDATE part SET day = '2024-08-08' WHERE tenant_id = 3",
		"UPDATE made SET a = a + 1; DELETE FROM made WHERE id < 5; INSERT INTO made (tenant_id, a) VALUES (1, 1)", "UPDATE made SET a = 77 WHERE id = 10",
		"UPDATE other SET v = 'w' WHERE id % 2 = 0; DELETE FROM other WHERE id % 10 = 1", "UPDATE other SET v = 'x' WHERE id = 8; DELETE FROM other WHERE id = 9")
	// Rows move to other nodes, with large values that are not sent again.
	p.sync("", "UPDATE item SET tenant_id = tenant_id % 5 + 1 WHERE id IN (2, 3, 1001, 2999)", "UPDATE event SET tenant_id = 9 WHERE tenant_id = 8",
		"UPDATE tenant SET id = 1000 WHERE id = 7; UPDATE other SET tenant_id = tenant_id + 1 WHERE id IN (2, 4, 6); UPDATE part SET tenant_id = 5000 WHERE tenant_id = 4; UPDATE made SET tenant_id = 99 WHERE id = 12")
	p.sync("", "TRUNCATE event, local; INSERT INTO event VALUES (1, 'after', '2024-01-01')", "TRUNCATE country RESTART IDENTITY CASCADE; TRUNCATE part_1, made",
		"INSERT INTO item (tenant_id, id) SELECT i, i FROM generate_series(1, 6) i; UPDATE item SET price = 3 WHERE id = 3")
	// Another load empties all shards first.
	p.source.Exec("INSERT INTO item (tenant_id, id) SELECT i % 6 + 1, i FROM generate_series(10, 600) i; INSERT INTO country VALUES ('again')")
	p.env.Bash(`pgdecode --slot "$1" --until now | pgapply; pgextract --slot "$1" --data-only --table item --table country --reload | pgapply`, p.source.Name)
	p.equal()
	sync := startSync(p.env, p.source)
	p.source.Exec("UPDATE item SET country = 'again' WHERE id < 100")
	p.env.Bash(`scripts/cutover "$1" --yes --no-reverse --verify first`, p.source.Name)
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync ended with %d:\n%s", status, sync.Errors())
	}
	p.equal()
	page := readPage(t, "docs/citus.md")
	p.source.Exec("BEGIN READ WRITE; " + page.take("sql", "DROP CONSTRAINT item_pkey") + "; COMMIT")
	if out := p.target.Query(page.take("sql", "citus_tables")); !strings.Contains(out, "tenant_id") {
		t.Errorf("the tables: %s", out)
	}
	page.done()
	if keys := p.target.Query("SELECT string_agg(conname, ' ' ORDER BY 1) FROM pg_constraint WHERE contype = 'f' AND convalidated AND conrelid = 'item'::regclass"); keys != "item_country item_tenant" {
		t.Errorf("foreign keys: %s", keys)
	}
	p.env.Must(nil, "pgcutover", "cleanup", "--slot", p.source.Name, "--force")
}

// What does not work is refused. What does not fit stops with table and key. A load that was cut
// goes on, and a transaction that changes one row on a worker is committed there and here together.
func TestCitusLimits(t *testing.T) {
	t.Parallel()
	p := newCitusPair(t)
	finds := func(env *pgtest.Env, want map[string]string) {
		t.Helper()
		_, out, _ := env.Run(nil, "pgcutover", "check", "--json")
		for id, text := range want {
			found := false
			for line := range strings.Lines(string(out)) {
				found = found || strings.Contains(line, `"id":"`+id+`"`) && strings.Contains(line, text)
			}
			if found == (text == "") {
				t.Errorf("finding %s (%q):\n%s", id, text, out)
			}
		}
	}
	finds(p.env, map[string]string{"citus": "version 13", "citus-keys": "1 table does not include the distribution column that the target has, so that each update and delete goes to all shards: public.other (tenant_id)",
		"way-back": "Citus", "target-event-triggers": ""})
	worker, swapped := *p.env, *p.env
	worker.Target, swapped.Source, swapped.Target = p.target.Worker.URI, p.env.Target, p.env.Source
	finds(&worker, map[string]string{"citus-worker": "worker"})
	finds(&swapped, map[string]string{"citus-source": "WAL of its workers"})
	if status, _, errs := swapped.Run(nil, "pgextract", "--slot", "from_citus"); status != 78 || !strings.Contains(errs, "distributed tables: public.country, public.event") {
		t.Errorf("a load of a cluster: status %d: %s", status, errs)
	}

	p.env.Bash(`pgextract --slot "$1" --data-only | head -c 700000 | pgapply && exit 1; pgextract --slot "$1" --data-only --resume | pgapply`, p.source.Name)
	p.equal()
	for _, command := range []string{`pgextract --slot "$1" --data-only --table item --reload | pgapply --rebuild-indexes`, `pgcutover reverse --slot "$1"`,
		"bash " + script("cutover") + ` "$1" --yes --no-reverse`, `pgcutover rehearse --snapshots --slot "$1"`} {
		status, _, errs := p.env.Run(nil, "bash", "-c", "set -o pipefail; "+command, "bash", p.source.Name)
		if status == 0 || !strings.Contains(errs, "Citus") {
			t.Errorf("%s: exit status %d\n%s", command, status, errs)
		}
	}
	// Citus keeps a record of each transaction that it has committed in two phases.
	remote := p.target.Query(`SELECT min(i) FROM generate_series(100, 200) i JOIN pg_dist_placement p ON p.shardid = get_shard_id_for_distribution_column('tenant', i)
		JOIN pg_dist_node n USING (groupid) WHERE n.groupid <> 0`)
	p.target.Exec("SELECT recover_prepared_transactions()")
	before := p.target.Query("SELECT count(*) FROM pg_dist_transaction")
	p.sync("", "INSERT INTO tenant VALUES ("+remote+", 'far')")
	if n := p.target.Query("SELECT count(*) FROM pg_dist_transaction"); n == before {
		t.Errorf("%s transactions were committed in two phases before, %s after a row on the worker", before, n)
	}
	p.target.Exec("DELETE FROM tenant WHERE id = "+remote, "INSERT INTO tenant VALUES (300, 'other')")
	p.source.Exec("UPDATE tenant SET name = 'again' WHERE id = " + remote + "; INSERT INTO tenant VALUES (300, 'new')")
	status, _, errs := p.env.Run(nil, "bash", "-c", `set -o pipefail; pgdecode --slot "$1" --until now | pgapply`, "bash", p.source.Name)
	if want := `could not apply update to relation "public.tenant"`; status == 0 || !strings.Contains(errs, want) || !strings.Contains(errs, "(id)=("+remote+")") {
		t.Errorf("exit status %d, without %q:\n%s", status, want, errs)
	}
	p.sync("--on-conflict overwrite")
	p.source.Exec("INSERT INTO event VALUES (NULL, 'nowhere')")
	status, _, errs = p.env.Run(nil, "bash", "-c", `set -o pipefail; pgdecode --slot "$1" --until now | pgapply`, "bash", p.source.Name)
	if want := `could not apply insert to relation "public.event"`; status == 0 || !strings.Contains(errs, want) {
		t.Errorf("exit status %d, without %q:\n%s", status, want, errs)
	}
}
