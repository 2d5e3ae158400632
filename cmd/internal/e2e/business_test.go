package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// In this business money only moves: the balances have the same sum after every transaction, and
// the ledger's amounts have the sum 0.
const businessSchema = `
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL, note text);
ALTER TABLE accounts ALTER note SET STORAGE EXTERNAL;
INSERT INTO accounts SELECT i, 1000, repeat(md5(i::text), 100) FROM generate_series(1, 20) i;
CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int, amount int, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE tickets (code text PRIMARY KEY, uses int NOT NULL);
INSERT INTO tickets SELECT 'start ' || i, 0 FROM generate_series(1, 50) i;
CREATE TABLE bag (item text, n int);
ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE orders (id int, state text, PRIMARY KEY (id, state)) PARTITION BY LIST (state);
CREATE TABLE orders_open PARTITION OF orders FOR VALUES IN ('open');
CREATE TABLE orders_done PARTITION OF orders FOR VALUES IN ('done');
CREATE SEQUENCE number;
`

// businessOf returns the schema for a version. Before 11 a partitioned table has no primary key,
// and rows do not move between partitions.
func businessOf(major int) string {
	if major >= 11 {
		return businessSchema
	}
	return regexp.MustCompile(`CREATE TABLE orders_.*\n`).
		ReplaceAllString(strings.Replace(businessSchema, " PARTITION BY LIST (state)", "", 1), "")
}

const businessTotals = `SELECT (SELECT sum(balance) FROM accounts), (SELECT coalesce(sum(amount), 0) FROM ledger), (SELECT count(*) FROM accounts)`

const businessWant = "20000\t0\t20"

// transaction returns the statements of a random transaction.
func transaction(rnd *rand.Rand) string {
	a, b, amount, i := 1+rnd.IntN(20), 1+rnd.IntN(20), rnd.IntN(100), rnd.IntN(1000)
	switch n := rnd.IntN(20); {
	case n < 8:
		return fmt.Sprintf(`UPDATE accounts SET balance = balance - %d WHERE id = %d; UPDATE accounts SET balance = balance + %d WHERE id = %d;
			INSERT INTO ledger (account, amount) VALUES (%d, -%d), (%d, %d)`, amount, a, amount, b, a, amount, b, amount)
	case n < 10:
		return fmt.Sprintf(`INSERT INTO tickets VALUES ('t' || nextval('number'), 0); UPDATE tickets SET uses = uses + 1 WHERE code = (SELECT code FROM tickets ORDER BY md5(code || '%d') LIMIT 1)`, i)
	case n < 12: // a key changes
		return fmt.Sprintf(`UPDATE tickets SET code = 'renamed ' || nextval('number') WHERE code = (SELECT code FROM tickets ORDER BY md5(code || '%d') LIMIT 1)`, i)
	case n < 13:
		return fmt.Sprintf(`DELETE FROM tickets WHERE code = (SELECT code FROM tickets ORDER BY md5(code || '%d') LIMIT 1); INSERT INTO tickets VALUES ('new ' || nextval('number'), 1)`, i)
	case n < 15: // equal rows
		return fmt.Sprintf(`INSERT INTO bag SELECT 'item %d' FROM generate_series(1, 3); UPDATE bag SET n = %d WHERE ctid = (SELECT ctid FROM bag WHERE item = 'item %d' LIMIT 1);
			DELETE FROM bag WHERE ctid = (SELECT ctid FROM bag WHERE item = 'item %d' LIMIT 1)`, i%5, i%3, i%5, (i+1)%5)
	case n < 17: // from partition to partition
		return fmt.Sprintf(`INSERT INTO orders VALUES (nextval('number'), 'open'); UPDATE orders SET state = 'done' WHERE id = (SELECT id FROM orders WHERE state = 'open' ORDER BY md5(id || '%d') LIMIT 1)`, i)
	case n < 18: // what is taken back
		return fmt.Sprintf(`UPDATE accounts SET balance = balance - %d WHERE id = %d; SAVEPOINT s; UPDATE accounts SET balance = 0; DELETE FROM bag; ROLLBACK TO s;
			UPDATE accounts SET balance = balance + %d WHERE id = %d`, amount, a, amount, b)
	case n < 19: // all of it
		return `UPDATE accounts SET balance = 1000; DELETE FROM ledger`
	default: // much of it
		return fmt.Sprintf(`UPDATE accounts SET note = repeat(md5('%d'), 100) WHERE id = %d; INSERT INTO ledger (account, amount) SELECT 1, 0 FROM generate_series(1, 600);
			SAVEPOINT s; DELETE FROM ledger; ROLLBACK TO s; UPDATE ledger SET at = NULL WHERE amount = 0 AND at IS NOT NULL`, i, a)
	}
}

// A business writes to the source in several sessions, and looks at the target's totals all the
// while.
type business struct {
	t      *testing.T
	stop   chan struct{}
	wait   sync.WaitGroup
	writes atomic.Int64
	reads  atomic.Int64
}

func startBusiness(t *testing.T, rnd *rand.Rand, source, target *pgtest.DB, sessions int) *business {
	b := &business{t: t, stop: make(chan struct{})}
	for range sessions {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		c := source.Connect()
		b.wait.Go(func() {
			for b.pause(time.Duration(rnd.IntN(20)) * time.Millisecond) {
				end := "COMMIT"
				if rnd.IntN(10) == 0 {
					end = "ROLLBACK"
				}
				if err := b.write(c, "BEGIN;"+transaction(rnd)+";"+end); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	c := target.Connect()
	b.wait.Go(func() {
		for b.pause(time.Millisecond) {
			var balance, ledger, n int
			if err := c.QueryRow(context.Background(), businessTotals).Scan(&balance, &ledger, &n); err != nil {
				t.Error(err)
				return
			}
			if got := fmt.Sprintf("%d\t%d\t%d", balance, ledger, n); got != businessWant {
				t.Errorf("a reader of the target saw a state that the source was never in: %s, not %s", got, businessWant)
				return
			}
			b.reads.Add(1)
		}
	})
	return b
}

// write runs a transaction. One that another got in the way of is one less.
func (b *business) write(c *pgx.Conn, sql string) error {
	_, err := c.PgConn().Exec(context.Background(), sql).ReadAll()
	var pg interface{ SQLState() string }
	if errors.As(err, &pg) && pg.SQLState() == "40P01" {
		_, err = c.PgConn().Exec(context.Background(), "ROLLBACK").ReadAll()
		return err
	}
	b.writes.Add(1)
	return err
}

func (b *business) pause(d time.Duration) bool {
	select {
	case <-b.stop:
		return false
	case <-time.After(d):
		return true
	}
}

// close ends the business, and fails the test unless it was brisk.
func (b *business) close() {
	b.t.Helper()
	close(b.stop)
	b.wait.Wait()
	b.t.Logf("%d transactions, %d looks at the target", b.writes.Load(), b.reads.Load())
	if b.writes.Load() < 100 || b.reads.Load() < 100 {
		b.t.Error("there was too little going on for the test to say anything")
	}
}
