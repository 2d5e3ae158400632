package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Every pair of versions in PGSLUICE_TEST_MATRIX, as superuser and with the roles that pgcutover
// roles prints, with each output plugin of the source: the sample database, tables of every kind,
// and tables with every type, under a random workload, to the target, back again while the target
// is in use, and cleaned up. scripts/test-versions requires each combination to have passed.
func TestMatrix(t *testing.T) {
	pairs := strings.Fields(os.Getenv("PGSLUICE_TEST_MATRIX"))
	if len(pairs) == 0 {
		t.Skip("scripts/test-versions runs it")
	}
	origins := make(map[string]*origin)
	for _, pair := range pairs {
		from, to, ok := strings.Cut(pair, ":")
		if !ok {
			t.Fatalf("PGSLUICE_TEST_MATRIX: %q is not a pair of versions", pair)
		}
		if origins[from] == nil {
			origins[from] = newOrigin(t, from)
		}
		t.Run(pair, func(t *testing.T) {
			target := startVersion(t, to)
			for _, roles := range []string{"superuser", "restricted"} {
				for _, plugin := range []string{"pgoutput", "test_decoding"} {
					if plugin == "pgoutput" && origins[from].Major < 10 {
						continue
					}
					t.Run(roles+"/"+plugin, func(t *testing.T) {
						t.Parallel()
						newMigrant(t, origins[from], target, roles == "restricted").migrate(plugin)
					})
				}
			}
		})
	}
}

// long bounds what takes seconds on a machine that does nothing else.
const long = 5 * time.Minute

func startVersion(t *testing.T, version string) *pgtest.Server {
	t.Helper()
	var s *pgtest.Server
	if version == "9.6" {
		s = pgtest.Old(t)
	} else {
		major, err := strconv.Atoi(version)
		if err != nil {
			t.Fatalf("PGSLUICE_TEST_MATRIX: %v", err)
		}
		s = pgtest.Start(t, major)
	}
	d := s.Database(t, "")
	d.Exec("CREATE ROLE app_owner; CREATE ROLE app LOGIN; GRANT app_owner TO app")
	return s
}

// An origin is a source server with a database that others are copied from.
type origin struct {
	*pgtest.Server
	full *pgtest.DB
}

func newOrigin(t *testing.T, version string) *origin {
	t.Helper()
	s := startVersion(t, version)
	o := &origin{s, s.Database(t, "OWNER app_owner")}
	// A third of the rows is enough.
	sample := replace(t, sampleOf(t, s.Major), "generate_series(1, 100000)", "generate_series(85001, 100000)")
	sample = replace(t, sample, "generate_series(1, 50000)", "generate_series(1, 5000)")
	o.full.Exec("GRANT ALL ON SCHEMA public TO app_owner", "SET ROLE app_owner; "+sample, "SET ROLE app_owner; "+varied(s.Major))
	return o
}

// A migrant is a migration of the matrix.
type migrant struct {
	*pgtest.Env
	t              *testing.T
	source, target *pgtest.DB
	role           string // of pgsluice; empty for the superuser
	columns        []string
}

// granting is held while roles are made and dropped: of two sessions that change the rights of one
// parameter at once, the server lets one fail.
var granting sync.Mutex

func newMigrant(t *testing.T, from *origin, to *pgtest.Server, restricted bool) *migrant {
	t.Helper()
	m := &migrant{t: t, source: from.Database(t, "OWNER app_owner TEMPLATE "+from.full.Name), target: to.Database(t, "OWNER app_owner")}
	m.makeTypes()
	m.Env = pgtest.NewEnv(t, m.source, m.target)
	if restricted {
		m.role = "mover_" + m.source.Name
		granting.Lock()
		defer granting.Unlock()
		m.LeastPrivilege(m.source, m.target, m.role)
	}
	return m
}

// makeTypes makes a table with a column for every type that both servers have and one for arrays of
// it, and another one whose rows have no key.
func (m *migrant) makeTypes() {
	m.t.Helper()
	m.source.Exec(`SET ROLE app_owner; CREATE TABLE public."hostile ""name"" \" (a int)`)
	var values [][]string
	rows := 0
	var table strings.Builder
	for _, typ := range pgtest.Types(m.t, m.source, m.target.Major) {
		all := typ.Literals()
		rows = max(rows, len(all))
		m.columns, values = append(m.columns, `"`+typ.Short+`"`), append(values, all)
		fmt.Fprintf(&table, ", %q %s", typ.Short, typ.Name)
		if typ.Array() {
			m.columns = append(m.columns, `"`+typ.Short+`[]"`)
			values = append(values, []string{"ARRAY[" + strings.Join(all, ", ") + ", NULL]", "'{}'"})
			fmt.Fprintf(&table, ", %q %s[]", typ.Short+"[]", typ.Name)
		}
	}
	sql := "SET ROLE app_owner; CREATE TABLE types (id int PRIMARY KEY" + table.String() + "); INSERT INTO types (id) VALUES (0);"
	for i := range rows {
		row := make([]string, len(values))
		for n, v := range values {
			row[n] = v[i%len(v)]
		}
		sql += fmt.Sprintf("INSERT INTO types VALUES (%d, %s);", i+1, strings.Join(row, ", "))
	}
	m.source.Exec(sql + "CREATE TABLE types_full (LIKE types); ALTER TABLE types_full REPLICA IDENTITY FULL; INSERT INTO types_full SELECT * FROM types")
}

// change returns a random transaction on the tables of types. Values move from row to row, and rows
// come and go. Transaction n is the only one that makes rows with the number 1000 + n.
func (m *migrant) change(rnd *rand.Rand, n int) string {
	a, b := rnd.IntN(12), rnd.IntN(12)
	var set []string
	for range 1 + rnd.IntN(6) {
		c := m.columns[rnd.IntN(len(m.columns))]
		if !strings.Contains(strings.Join(set, ","), c+" =") {
			set = append(set, c+" = s."+c)
		}
	}
	table := []string{"types", "types_full"}[rnd.IntN(2)]
	update := fmt.Sprintf("UPDATE %s t SET %s FROM types s WHERE t.id = %d AND s.id = %d", table, strings.Join(set, ", "), a, b)
	list := strings.Join(m.columns, ", ")
	end := []string{"COMMIT", "COMMIT", "COMMIT", "ROLLBACK"}[rnd.IntN(4)]
	switch rnd.IntN(4) {
	case 0:
		return fmt.Sprintf("BEGIN; INSERT INTO %s (id, %s) SELECT %d, %s FROM types WHERE id = %d; %s; %s", table, list, 1000+n, list, b, update, end)
	case 1:
		return fmt.Sprintf("BEGIN; %s; DELETE FROM %s WHERE id = (SELECT max(id) FROM %s WHERE id > 999); %s", update, table, table, end)
	case 2:
		return fmt.Sprintf("BEGIN; %s; UPDATE %s SET id = id + 100000 WHERE id = (SELECT min(id) FROM %s WHERE id > 999); %s", update, table, table, end)
	}
	return "BEGIN; " + update + ";" + end
}

// write changes rows of a database as the application, until stop returns true or the session is
// ended. k is the number of the next transaction.
func (m *migrant) write(rnd *rand.Rand, d *pgtest.DB, k *atomic.Int64, stop func() bool) error {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, d.As("app", ""))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for !stop() {
		n := int(k.Load())
		sql := m.change(rnd, n)
		if n%2 == 0 {
			sql = variedStep(n/2, m.source.Major)
		}
		_, err := c.PgConn().Exec(ctx, sql).ReadAll()
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "40P01" { // with the creation of a publication
			_, err = c.PgConn().Exec(ctx, "ROLLBACK").ReadAll()
		}
		if err != nil {
			return fmt.Errorf("transaction %d: %w\n%s", n, err, sql)
		}
		k.Add(1)
		time.Sleep(20 * time.Millisecond) // a business, not a benchmark
	}
	return nil
}

func (m *migrant) migrate(plugin string) {
	t, slot := m.t, m.source.Name
	if status, out, errs := m.Run(nil, "pgcutover", "check", "--slot", slot); status > 1 {
		t.Fatalf("check: status %d\n%s%s", status, out, errs)
	}
	rnd, uri := random(t), filepath.Join(t.TempDir(), "uri")
	if err := os.WriteFile(uri, []byte(m.source.As("app", "")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sample := m.Start(nil, nil, "bash", script("sample/write"), uri, "--rate", "40", "--clients", "2")
	var k atomic.Int64
	load := m.Start(nil, nil, "bash", script("load"), slot, "--plugin", plugin)
	if status := load.Wait(long); status != 0 {
		t.Fatalf("load: status %d\n%s", status, load.Errors())
	}
	if got := m.source.Query("SELECT plugin FROM pg_replication_slots WHERE slot_name = '" + slot + "'"); got != plugin {
		t.Fatalf("the slot has plugin %s", got)
	}
	following := startSync(m.Env, m.source)
	// After the load, because a table that is truncated meanwhile has to be read again.
	ended := make(chan error, 1)
	go func() { ended <- m.write(rnd, m.source, &k, func() bool { return false }) }()
	pgtest.Wait(t, long, "two changes of each kind", func() bool {
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
		return k.Load() >= 48
	})
	cutover := m.Start(nil, nil, "bash", script("cutover"), slot, "--yes")
	if status := cutover.Wait(long); status != 0 || !strings.Contains(cutover.Errors(), "all tables are equal") {
		t.Fatalf("cutover: status %d\n%s\nsync: %s", status, cutover.Errors(), following.Errors())
	}
	if status := following.Wait(long); status != 0 {
		t.Errorf("sync: status %d\n%s", status, following.Errors())
	}
	select {
	case err := <-ended:
		t.Logf("%d transactions, then %.80v", k.Load(), err)
	case <-time.After(soon):
		t.Fatal("the application's session has outlived the fence")
	}
	_ = sample.Process.Signal(os.Interrupt)
	if status := sample.Wait(soon); status != 0 {
		t.Errorf("the sample's application: status %d\n%s", status, sample.Errors())
	}
	m.equal()
	m.back(rnd, &k)
	m.Bash(`pgcutover cleanup --slot "$1"`, slot)
	m.nothingLeft()
}

// equal compares both sides, with what finish has done on the target done on the source as well.
func (m *migrant) equal() {
	m.t.Helper()
	m.source.Exec("BEGIN READ WRITE; REFRESH MATERIALIZED VIEW shop.revenue; COMMIT")
	m.target.Exec("REFRESH MATERIALIZED VIEW shop.revenue")
	pgtest.Equal(m.t, m.source, m.target)
}

// back has the application write to the target, and the source follow it if it can.
func (m *migrant) back(rnd *rand.Rand, k *atomic.Int64) {
	m.t.Helper()
	var following *pgtest.Process
	if m.source.Major >= 10 {
		following = startSync(m.Env, m.source, "--reverse")
	}
	m.Bash(`scripts/sample/write "$1" --clients 1 --rate 30 --seconds 1`, m.target.As("app", ""))
	last := k.Load() + 24
	if err := m.write(rnd, m.target, k, func() bool { return k.Load() > last }); err != nil {
		m.t.Fatal(err)
	}
	if following == nil {
		return
	}
	m.target.Exec("INSERT INTO probe VALUES (-1)")
	pgtest.Wait(m.t, long, "the source has the target's last change", func() bool {
		return m.source.Query("SELECT count(*) FROM probe WHERE id = -1") == "1"
	})
	stopSync(m.t, following)
	m.equal()
}

func (m *migrant) nothingLeft() {
	m.t.Helper()
	if m.source.Major >= 10 {
		nothingLeft(m.t, m.source, m.target)
		nothingLeft(m.t, m.target, m.source)
	} else if s := m.source.Query("SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice')"); s != "0" {
		m.t.Error("something is left on the source")
	}
	if m.role != "" {
		granting.Lock()
		defer granting.Unlock()
		m.DropLeastPrivilege(m.source, m.target, m.role)
	}
}
