package check

import (
	"context"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A query returns the SQL for a server's version, or "" if that version has nothing to ask for.
type query func(version int) string

// always is the same query for all versions.
func always(sql string) query { return func(int) string { return sql } }

// from is a query for a version and those after it.
func from(first int, sql string) query {
	return func(version int) string {
		if version < first {
			return ""
		}
		return sql
	}
}

// An answer has the rows of a query as text; NULL is "".
type answer struct {
	rows [][]string
	err  error
}

// ask sends all queries at once, and returns their answers in the same order. A query that fails
// does not disturb the others. So many questions cost one round trip.
func ask(ctx context.Context, conn *pgx.Conn, queries []string) ([]answer, error) {
	answers := make([]answer, len(queries))
	p := conn.PgConn().StartPipeline(ctx)
	for _, sql := range queries {
		if sql != "" {
			p.SendQueryParams(sql, nil, nil, nil, nil)
		}
		p.SendPipelineSync()
	}
	if err := p.Flush(); err != nil {
		return nil, err
	}
	for i := 0; i < len(queries); {
		result, err := p.GetResults()
		switch r := result.(type) {
		case *pgconn.PipelineSync:
			i++
		case *pgconn.ResultReader:
			answers[i].read(r)
		default:
			if err == nil {
				err = p.Close()
			}
			if conn.IsClosed() {
				return nil, err
			}
			answers[i].err = err
		}
	}
	return answers, p.Close()
}

func (a *answer) read(r *pgconn.ResultReader) {
	for r.NextRow() {
		row := make([]string, len(r.Values()))
		for i, v := range r.Values() {
			row[i] = string(v)
		}
		a.rows = append(a.rows, row)
	}
	if _, err := r.Close(); err != nil {
		a.err = err
	}
}

// askAll asks both servers what the looks need, at the same time.
func (c *checker) askAll(looks []look) error {
	var failed [2]error
	var wg sync.WaitGroup
	for side, conn := range []*pgx.Conn{c.s, c.t} {
		wg.Go(func() {
			var queries []string
			for _, l := range looks {
				queries = append(queries, []query{l.source, l.target}[side].text([]int{c.sv, c.tv}[side]))
			}
			answers, err := ask(c.ctx, conn, queries)
			failed[side] = err
			c.answers[side] = make(map[string]answer)
			for i := range answers {
				c.answers[side][looks[i].what] = answers[i]
			}
		})
	}
	wg.Wait()
	if err := c.m.Source.Explain(failed[source]); err != nil {
		return err
	}
	return c.m.Target.Explain(failed[target])
}

func (q query) text(version int) string {
	if q == nil {
		return ""
	}
	return q(version)
}

// column returns a column of rows.
func column(rows [][]string, i int) []string {
	list := make([]string, len(rows))
	for n, r := range rows {
		list[n] = r[i]
	}
	return list
}

// lacking returns the first columns of the rows that another list does not have.
func lacking(rows, in [][]string) (list []string) {
	have := "\x00" + strings.Join(column(in, 0), "\x00") + "\x00"
	for _, r := range rows {
		if !strings.Contains(have, "\x00"+r[0]+"\x00") {
			list = append(list, r[0])
		}
	}
	return list
}
