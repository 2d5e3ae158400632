package verify

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A pace limits how many rows the sessions of one side read in a second.
type pace struct {
	each time.Duration // for one row
	mu   sync.Mutex
	next time.Time // when the rows so far are paid for
}

// owed is how much of the time that a server was too slow is caught up later.
const owed = time.Second

// wait waits until rows that have been read are paid for.
func (p *pace) wait(ctx context.Context, rows int) error {
	p.mu.Lock()
	now := time.Now()
	if p.next.IsZero() {
		p.next = now
	}
	if most := now.Add(-owed); p.next.Before(most) {
		p.next = most
	}
	p.next = p.next.Add(time.Duration(rows) * p.each)
	pause := p.next.Sub(now)
	p.mu.Unlock()
	if pause <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// readSlowly computes the sum of a part within the limit. The rows' hashes come through a cursor, a
// tenth of a second's at a time.
func (s *summer) readSlowly(ctx context.Context, p *part, onTarget bool) (*sum, error) {
	if _, err := s.conn.Exec(ctx, "DECLARE hashes NO SCROLL CURSOR FOR SELECT "+s.how.a+", "+s.how.b+" FROM ("+
		s.how.digests(*p, onTarget)+") x"); err != nil {
		return nil, err
	}
	most := min(max(s.Rate/10/s.Jobs, 1), 10000)
	got, a, b := new(sum), int64(0), int64(0)
	for {
		n := 0
		rows, err := s.conn.Query(ctx, "FETCH "+strconv.Itoa(most)+" FROM hashes", pgx.QueryExecModeExec)
		if err != nil {
			return nil, err
		}
		one := new(sum)
		if _, err := pgx.ForEachRow(rows, []any{&a, &b}, func() error {
			n++
			one.a.SetInt64(a)
			one.b.SetInt64(b)
			got.add(one)
			return nil
		}); err != nil {
			return nil, err
		}
		got.rows += int64(n)
		if err := s.pace.wait(ctx, n); err != nil {
			return nil, err
		}
		if n < most {
			_, err := s.conn.Exec(ctx, "CLOSE hashes")
			return got, err
		}
	}
}
