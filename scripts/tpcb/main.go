// Command tpcb runs the transactions of pgbench's TPC-B at a rate, as an application that survives
// a cutover: its clients reconnect when a server refuses them. It remembers what was acknowledged,
// so that a script can look for it on the new primary. scripts/bench cutover runs it.
//
// pgbench cannot do this: it ends a client whose connection is lost.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5"
)

type command struct {
	File    string        `arg:"" help:"File that has the URI of the primary. It is read for each connection."`
	Acked   string        `required:"" help:"File for the numbers of the transactions: a and the number if it was acknowledged, ? and the number if it may have been committed."`
	Rate    int           `default:"1000" help:"Transactions a second, of all clients."`
	Clients int           `default:"8" help:"Number of connections."`
	Scale   int           `default:"1" help:"Scale with which pgbench -i was called."`
	First   int           `default:"0" help:"Number of the first transaction, less than 100 million. Each client has 100 million numbers."`
	Timeout time.Duration `default:"1s" help:"How long a connection may take."`
}

// result is what the command prints at its end, as JSON.
type result struct {
	Acknowledged int     `json:"acknowledged"`
	Unknown      int     `json:"unknown"`           // the connection was lost while the client waited for COMMIT
	Failed       int     `json:"failed"`            // refused; the client did another transaction
	Gap          float64 `json:"longest_gap_ms"`    // between two acknowledged transactions of any clients
	GapBegan     float64 `json:"gap_began"`         // seconds since 1970
	Slowest      float64 `json:"slowest_ms"`        // from a transaction's first attempt to its end
	Refused      string  `json:"error,omitempty"`   // one of the errors
	Seconds      float64 `json:"seconds"`           // of the run
	Rate         float64 `json:"achieved_a_second"` // acknowledged transactions
}

type app struct {
	command
	mu   sync.Mutex
	res  result
	last time.Time
	log  *bufio.Writer
}

func main() {
	var a app
	kong.Parse(&a.command, kong.Description("Run TPC-B transactions with clients that reconnect, until SIGINT or SIGTERM."))
	if err := a.run(); err != nil {
		fmt.Fprintln(os.Stderr, "tpcb:", err)
		os.Exit(1)
	}
}

func (a *app) run() error {
	f, err := os.Create(a.Acked)
	if err != nil {
		return err
	}
	a.log = bufio.NewWriter(f)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	a.last = began
	var clients sync.WaitGroup
	for i := range a.Clients {
		clients.Go(func() { a.client(ctx, i) })
	}
	clients.Wait()
	a.res.Seconds = time.Since(began).Seconds()
	a.res.Rate = float64(a.res.Acknowledged) / a.res.Seconds
	if err := a.log.Flush(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(a.res)
}

// client runs one transaction after the other, at its share of the rate. A transaction that is
// refused is tried again until it is acknowledged, unless nobody knows whether it is committed.
func (a *app) client(ctx context.Context, i int) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	every := time.Duration(a.Clients) * time.Second / time.Duration(a.Rate)
	next := time.Now().Add(every * time.Duration(i) / time.Duration(a.Clients))
	for number := i*100_000_000 + a.First; ctx.Err() == nil; number++ {
		time.Sleep(time.Until(next)) // a late client catches up
		next = next.Add(every)
		began := time.Now()
		for ctx.Err() == nil {
			if conn == nil {
				if conn = a.connect(ctx); conn == nil {
					time.Sleep(backoff())
				}
				continue
			}
			committing, err := transaction(ctx, conn, number, a.Scale)
			a.note(number, began, committing, err)
			if err == nil {
				break
			}
			_ = conn.Close(context.Background())
			conn = nil
			if committing {
				break
			}
			time.Sleep(backoff())
		}
	}
}

// backoff is how long a client that was refused waits: not always as long as the others.
func backoff() time.Duration { return 50*time.Millisecond + rand.N(100*time.Millisecond) }

// connect returns nil if the primary takes no connections.
func (a *app) connect(ctx context.Context) *pgx.Conn {
	uri, err := os.ReadFile(a.File)
	if err == nil {
		var config *pgx.ConnConfig
		if config, err = pgx.ParseConfig(strings.TrimSpace(string(uri))); err == nil {
			config.ConnectTimeout, config.DefaultQueryExecMode = a.Timeout, pgx.QueryExecModeSimpleProtocol
			var c *pgx.Conn
			if c, err = pgx.ConnectConfig(ctx, config); err == nil {
				return c
			}
		}
	}
	a.note(-1, time.Now(), false, err)
	return nil
}

// transaction is pgbench's TPC-B, with its number in the history. If committing, an error does not
// tell whether it was committed. A transaction that has begun is not canceled.
func transaction(ctx context.Context, c *pgx.Conn, number, scale int) (committing bool, err error) {
	aid, bid, tid := rand.IntN(scale*100000)+1, rand.IntN(scale)+1, rand.IntN(scale*10)+1
	delta := rand.IntN(10001) - 5000
	for _, sql := range []string{
		"BEGIN",
		fmt.Sprintf("UPDATE pgbench_accounts SET abalance = abalance + %d WHERE aid = %d", delta, aid),
		fmt.Sprintf("SELECT abalance FROM pgbench_accounts WHERE aid = %d", aid),
		fmt.Sprintf("UPDATE pgbench_tellers SET tbalance = tbalance + %d WHERE tid = %d", delta, tid),
		fmt.Sprintf("UPDATE pgbench_branches SET bbalance = bbalance + %d WHERE bid = %d", delta, bid),
		fmt.Sprintf("INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler) VALUES (%d, %d, %d, %d, CURRENT_TIMESTAMP, '%d')", tid, bid, aid, delta, number),
	} {
		if _, err := c.Exec(context.WithoutCancel(ctx), sql); err != nil {
			return false, err
		}
	}
	tag, err := c.Exec(context.WithoutCancel(ctx), "COMMIT")
	if err == nil && tag.String() != "COMMIT" {
		return false, fmt.Errorf("COMMIT was answered with %s", tag)
	}
	return err != nil, err
}

func (a *app) note(number int, began time.Time, committing bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil:
		a.res.Acknowledged++
		if gap := now.Sub(a.last).Seconds() * 1000; gap > a.res.Gap {
			a.res.Gap, a.res.GapBegan = gap, float64(a.last.UnixMicro())/1e6
		}
		a.last = now
		a.res.Slowest = max(a.res.Slowest, now.Sub(began).Seconds()*1000)
		fmt.Fprintf(a.log, "a\t%d\n", number)
		return
	case committing:
		a.res.Unknown++
		fmt.Fprintf(a.log, "?\t%d\n", number)
	case number >= 0:
		a.res.Failed++
	}
	a.res.Refused = err.Error()
}
