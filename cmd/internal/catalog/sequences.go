package catalog

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// sequencesAtOnce is how many sequences one transaction locks. A server has room for few locks.
const sequencesAtOnce = 16

// LastValues returns the last value of each sequence that has given one, by OID, in one round trip.
func LastValues(ctx context.Context, c *pgx.Conn, oids []uint32) (map[uint32]int64, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	var sql strings.Builder
	// Prepared, because planning takes a third of the time.
	sql.WriteString("PREPARE pgsluice_last_values (pg_catalog.oid[]) AS SELECT s.seqrelid, pg_catalog.pg_sequence_last_value(s.seqrelid) FROM pg_catalog.pg_sequence s WHERE s.seqrelid = ANY ($1); ")
	for some := range slices.Chunk(oids, sequencesAtOnce) {
		sql.WriteString("BEGIN; EXECUTE pgsluice_last_values ('{" + list(some) + "}'); COMMIT; ")
	}
	const forget = "DEALLOCATE pgsluice_last_values"
	sql.WriteString(forget)
	values := make(map[uint32]int64, len(oids))
	err := rows(ctx, c, sql.String(), func(row [][]byte) error {
		if row[1] == nil {
			return nil
		}
		oid, err := strconv.ParseUint(string(row[0]), 10, 32)
		if err == nil {
			values[uint32(oid)], err = strconv.ParseInt(string(row[1]), 10, 64)
		}
		return err
	})
	if err != nil && !c.IsClosed() {
		_, _ = c.Exec(ctx, forget) // the error may have come before
	}
	return values, err
}

// SequenceStates reads the state of sequences of the source, in at most two round trips. Reading a
// sequence by its name takes longer, and is done only for those that have given no value yet.
func SequenceStates(ctx context.Context, c *pgx.Conn, all []Sequence) error {
	oids := make([]uint32, len(all))
	for i := range all {
		oids[i] = all[i].OID
	}
	values, err := LastValues(ctx, c, oids)
	if err != nil {
		return err
	}
	at := make(map[string]*Sequence)
	var fresh []*Sequence
	for i := range all {
		s := &all[i]
		if s.LastValue, s.IsCalled = values[s.OID]; !s.IsCalled {
			fresh = append(fresh, s)
			at[strconv.FormatUint(uint64(s.OID), 10)] = s
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	var sql strings.Builder
	sql.WriteString(pgdial.TablesOnly("source") + "; ")
	for some := range slices.Chunk(fresh, sequencesAtOnce) {
		sql.WriteString("BEGIN")
		for i, s := range some {
			sql.WriteString([]string{"; ", " UNION ALL "}[min(i, 1)])
			fmt.Fprintf(&sql, "SELECT %d, last_value, is_called FROM %s", s.OID, pgx.Identifier{s.Schema, s.Name}.Sanitize())
		}
		sql.WriteString("; COMMIT; ")
	}
	sql.WriteString(pgdial.TablesOrViews)
	return rows(ctx, c, sql.String(), func(row [][]byte) (err error) {
		if len(row) != 3 || at[string(row[0])] == nil {
			return nil
		}
		s := at[string(row[0])]
		s.IsCalled = string(row[2]) == "t"
		s.LastValue, err = strconv.ParseInt(string(row[1]), 10, 64)
		return err
	})
}

// rows sends statements as one query and calls f for each row of their results.
func rows(ctx context.Context, c *pgx.Conn, sql string, f func(row [][]byte) error) (err error) {
	if sql == "" {
		return nil
	}
	r := c.PgConn().Exec(ctx, sql)
	for r.NextResult() {
		for rr := r.ResultReader(); rr.NextRow(); {
			if e := f(rr.Values()); err == nil {
				err = e
			}
		}
	}
	if e := r.Close(); e != nil {
		err = e
		if !c.IsClosed() {
			_, _ = c.Exec(ctx, "ROLLBACK; "+pgdial.TablesOrViews)
		}
	}
	return err
}

func list(oids []uint32) string {
	var b strings.Builder
	for i, oid := range oids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(uint64(oid), 10))
	}
	return b.String()
}
