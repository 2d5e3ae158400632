package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// hugeLimit is how much memory a program may have, in kB, for rows whose values have 200 MB each.
const hugeLimit = 260_000

// A hugeShape is a way in which huge rows come.
type hugeShape struct {
	name   string
	tables []string // created on both sides; the first one has a primary key id
	before []string // executed on the source before the slot is made, and arrives by a load
	sync   []string // executed on the source afterwards, each in a transaction of its own
	load   []string // options of pgextract; the shape is a load if sync is empty
	decode string   // settings of the source's session
	apply  []string // options of pgapply
	target []string // executed on the target before sync begins
	most   int      // in kB, if it is not hugeLimit
	quick  bool     // runs always, not only with --full
}

// mb is a text value of so many megabytes, which is easy to make and to compress.
func mb(n int) string { return fmt.Sprintf("repeat('0123456789', %d)", n*100_000) }

// mbBytea is a bytea value of so many megabytes; its text form has twice as many.
func mbBytea(n int) string {
	return fmt.Sprintf("decode(repeat('0123456789abcdef0011', %d), 'hex')", n*100_000)
}

const (
	plainTable  = "CREATE TABLE %s (id int PRIMARY KEY, v text)"
	fullTable   = "CREATE TABLE %s (id int PRIMARY KEY, v text); ALTER TABLE %[1]s REPLICA IDENTITY FULL"
	noKeyTable  = "CREATE TABLE %s (id int, v text); ALTER TABLE %[1]s REPLICA IDENTITY FULL"
	binaryTable = "CREATE TABLE %s (id int PRIMARY KEY, v bytea)"
)

// streamed makes the source send transactions in blocks while they are in progress.
const streamed = "&logical_decoding_work_mem=64kB"

func hugeShapes() []hugeShape {
	small := "INSERT INTO %s SELECT i, md5(i::text) FROM generate_series(100, 5000) i"
	return []hugeShape{
		{name: "load, alone", quick: true, tables: []string{plainTable}, before: []string{"INSERT INTO %s SELECT 1, " + mb(200)}},
		{name: "load, binary, among others", tables: []string{binaryTable},
			before: []string{"INSERT INTO %s SELECT i, decode(md5(i::text), 'hex') FROM generate_series(100, 5000) i",
				"INSERT INTO %s SELECT 1, " + mbBytea(100),
				"INSERT INTO %s SELECT i, decode(md5(i::text), 'hex') FROM generate_series(6000, 10000) i"}},
		{name: "load, bytea as text", tables: []string{binaryTable}, load: []string{"--format", "text"},
			before: []string{"INSERT INTO %s SELECT 1, " + mbBytea(100)}},
		{name: "load, one after the other", tables: []string{plainTable}, before: []string{small,
			"INSERT INTO %s SELECT -i, repeat('x', i * 1000000) FROM unnest('{60,90,120,100,150}'::int[]) i",
			"INSERT INTO %s SELECT 1, " + mb(200)}},
		{name: "load, tables side by side", tables: []string{plainTable, plainTable, plainTable, plainTable},
			load: []string{"--jobs", "4"}, before: []string{
				"INSERT INTO %s SELECT i, repeat('x', (30 + 30*i) * 1000000) FROM generate_series(2, 3) i"}},
		{name: "insert", quick: true, tables: []string{plainTable},
			sync: []string{small, "INSERT INTO %s SELECT 1, " + mb(200), "DELETE FROM %s WHERE id = 100"}},
		{name: "insert of bytea", tables: []string{binaryTable}, sync: []string{"INSERT INTO %s SELECT 1, " + mbBytea(100)}},
		{name: "several in a transaction", tables: []string{plainTable, plainTable}, sync: []string{
			"INSERT INTO %s SELECT -i, repeat('x', i * 1000000) FROM unnest('{60,90,120,100,150}'::int[]) i",
			"UPDATE %s SET v = v || 'y' WHERE id IN (-90, -150)"}},
		{name: "update, unchanged, delete", tables: []string{plainTable}, before: []string{"INSERT INTO %s SELECT 1, " + mb(10)},
			sync: []string{"UPDATE %s SET v = " + mb(200), "UPDATE %s SET id = 2",
				"UPDATE %s SET v = " + mb(199) + " WHERE id = 2", "UPDATE %s SET id = 3, v = v || 'x'",
				"DELETE FROM %s"}},
		{name: "whole old rows", tables: []string{fullTable}, most: 460_000,
			before: []string{"INSERT INTO %s SELECT i, repeat('y', i * 100000000) FROM generate_series(1, 2) i"},
			sync: []string{"UPDATE %s SET id = 3 WHERE id = 2", "UPDATE %s SET v = v || 'x' WHERE id = 3",
				"DELETE FROM %s WHERE id = 3"}},
		{name: "rows without a key", tables: []string{noKeyTable}, most: 460_000,
			before: []string{"INSERT INTO %s SELECT i, repeat('y', i * 100000000) FROM generate_series(1, 2) i"},
			sync: []string{"UPDATE %s SET id = 3 WHERE id = 2", "UPDATE %s SET v = v || 'x' WHERE id = 3",
				"DELETE FROM %s WHERE id = 3"}},
		{name: "in progress", decode: streamed, tables: []string{plainTable}, before: []string{small}, sync: []string{
			"UPDATE %s SET v = v || 'x'; INSERT INTO %[1]s SELECT 1, " + mb(200) +
				"; UPDATE %[1]s SET v = v || 'y' WHERE id <> 1; INSERT INTO %[1]s SELECT -i, repeat('x', i * 1000000) FROM unnest('{60,90}'::int[]) i",
			"SAVEPOINT a; INSERT INTO %s SELECT 2, " + mb(150) +
				"; ROLLBACK TO a; SAVEPOINT b; INSERT INTO %[1]s SELECT 3, " + mb(160) +
				"; RELEASE b; UPDATE %[1]s SET v = v || 'z' WHERE id > 100"}},
		{name: "in progress, put away", decode: streamed, tables: []string{plainTable}, before: []string{small}, sync: []string{
			"UPDATE %s SET v = v || 'x'; INSERT INTO %[1]s SELECT 1, " + mb(200) +
				"; UPDATE %[1]s SET v = v || 'y' WHERE id <> 1; INSERT INTO %[1]s SELECT -i, repeat('x', i * 1000000) FROM unnest('{60,90}'::int[]) i",
			"SAVEPOINT a; INSERT INTO %s SELECT 2, " + mb(150) +
				"; ROLLBACK TO a; SAVEPOINT b; INSERT INTO %[1]s SELECT 3, " + mb(160) +
				"; RELEASE b; UPDATE %[1]s SET v = v || 'z' WHERE id > 100"},
			target: []string{"UPDATE pgsluice.streams SET ahead = false"}},
		{name: "side by side", apply: []string{"--jobs", "2"}, tables: []string{plainTable, plainTable},
			sync: []string{small, "INSERT INTO %s SELECT 1, " + mb(200),
				"UPDATE %s SET v = v || 'z' WHERE id > 200", "UPDATE %s SET v = " + mb(150) + " WHERE id IN (1, 300)"}},
		{name: "a conflict", apply: []string{"--on-conflict", "overwrite"}, tables: []string{plainTable},
			target: []string{"INSERT INTO %s VALUES (1, 'other')"},
			sync:   []string{"INSERT INTO %s SELECT 1, " + mb(200), small}},
		{name: "a message", quick: true, most: 80_000, tables: []string{plainTable}, sync: []string{small,
			"SELECT pg_logical_emit_message(true, 'x', repeat('y', 100000000)), '%s'",
			"SELECT pg_logical_emit_message(false, 'x', repeat('y', 100000000)), '%s'",
			"DELETE FROM %s WHERE id = 100"}},
		{name: "a message in progress", decode: streamed, most: 80_000, tables: []string{plainTable},
			before: []string{small}, sync: []string{
				"UPDATE %s SET v = v || 'x'; SELECT pg_logical_emit_message(true, 'x', repeat('y', 100000000)); UPDATE %[1]s SET v = v || 'y'"}},
	}
}

// A value of 200 MB is not copied on its way: it takes each program at most 1.3 times its size,
// however it comes; and what nobody wants takes nothing.
func TestHugeValue_H11(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	for _, s := range hugeShapes() {
		t.Run(s.name, func(t *testing.T) {
			if !s.quick {
				pgtest.Long(t)
			}
			source, target := pgtest.Pair(t)
			if s.decode != "" && source.Major < 14 {
				t.Skip("servers send transactions in progress from PostgreSQL 14 on")
			}
			slot := source.Name
			env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: source.URI, Target: target.URI}
			most := hugeLimit
			if s.most != 0 {
				most = s.most
			}
			var names []string
			for i, table := range s.tables {
				names = append(names, fmt.Sprintf("huge_%d", i))
				source.Exec(fmt.Sprintf(table, names[i]))
			}
			in := func(d *pgtest.DB, sql string, transaction bool) {
				for _, name := range names {
					if strings.Contains(sql, "%") {
						sql := fmt.Sprintf(sql, name)
						if transaction {
							sql = "BEGIN; " + sql + "; COMMIT"
						}
						d.Exec(sql)
					}
				}
			}
			for _, sql := range s.before {
				in(source, sql, false)
			}
			source.Exec("CREATE PUBLICATION " + slot + " FOR ALL TABLES")
			x, a := startPiped(env, append([]string{"pgextract", "--slot", slot}, s.load...), []string{"pgapply"})
			modestBelow(t, most, x, a)
			for _, sql := range s.target {
				if strings.Contains(sql, "%") {
					in(target, sql, false)
				} else {
					target.Exec(sql)
				}
			}
			if s.sync != nil {
				for _, sql := range s.sync {
					in(source, sql, true)
				}
				env.Source += s.decode // which pg_dump does not know
				began := time.Now()
				d, a := startPiped(env, []string{"pgdecode", "--slot", slot, "--until", "now"}, append([]string{"pgapply"}, s.apply...))
				modestBelow(t, most, d, a)
				t.Logf("sync took %v", time.Since(began).Round(time.Millisecond))
			}
			for _, name := range names {
				sql := "SELECT count(*), md5(string_agg(md5(id || ' ' || length(v) || ' ' || md5(v)), '' ORDER BY id)) FROM " + name
				if a, b := source.Query(sql), target.Query(sql); a != b {
					t.Errorf("%s: the source has %s, the target %s", name, a, b)
				}
			}
			if s.sync != nil {
				source.Exec("SELECT pg_drop_replication_slot('" + slot + "')")
			}
		})
	}
}

// startPiped starts two programs of which the second reads what the first writes.
func startPiped(env *pgtest.Env, from, to []string) (*pgtest.Process, *pgtest.Process) {
	r, w, err := os.Pipe()
	if err != nil {
		env.T.Fatal(err)
	}
	first := env.Start(nil, w, from[0], from[1:]...)
	second := env.Start(r, nil, to[0], to[1:]...)
	_, _ = r.Close(), w.Close()
	return first, second
}
