package pgtest

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A Stub answers like a server that tests cannot start. Sessions get the settings that they ask
// for. Answer returns the row of any other query: a string or bool for each column, or nil for no
// row. To a simple query, it may return an ErrorResponse instead.
type Stub struct {
	Version string // as server_version has it: 9.6.24
	Answer  func(sql string) []any
}

// Start returns the URI of the stub, which stops when the test ends.
func (s Stub) Start(t testing.TB) string {
	t.Helper()
	addr := Listen(t, func(c net.Conn) {
		defer c.Close()
		s.serve(pgproto3.NewBackend(c, c))
	})
	return fmt.Sprintf("postgres://me@%s/db?sslmode=disable", addr)
}

const stubPID = 4711

func (s Stub) serve(b *pgproto3.Backend) {
	msg, err := b.ReceiveStartupMessage()
	if err != nil {
		return
	}
	start, ok := msg.(*pgproto3.StartupMessage)
	if !ok {
		return
	}
	settings := start.Parameters
	b.Send(&pgproto3.AuthenticationOk{})
	for k, v := range map[string]string{"server_version": s.Version, "server_encoding": "UTF8",
		"client_encoding": "UTF8", "standard_conforming_strings": "on",
		"session_authorization": settings["user"]} {
		b.Send(&pgproto3.ParameterStatus{Name: k, Value: v})
	}
	b.Send(&pgproto3.BackendKeyData{ProcessID: stubPID, SecretKey: []byte{1, 2, 3, 4}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	var prepared string
	for b.Flush() == nil {
		msg, err := b.Receive()
		if err != nil {
			return
		}
		switch m := msg.(type) {
		case *pgproto3.Query:
			for sql := range strings.SplitSeq(m.String, ";") {
				if sql = strings.TrimSpace(sql); sql != "" {
					row := s.row(settings, sql)
					if failed, ok := refusal(row); ok {
						b.Send(failed)
						break
					}
					if row != nil {
						b.Send(describe(row))
					}
					send(b, row, false)
				}
			}
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Parse:
			prepared = m.Query
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.ParameterDescription{})
			if row := s.row(settings, prepared); row != nil {
				b.Send(describe(row))
			} else {
				b.Send(&pgproto3.NoData{})
			}
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			send(b, s.row(settings, prepared), true)
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return
		}
	}
}

func (s Stub) row(settings map[string]string, sql string) []any {
	if name, ok := strings.CutPrefix(sql, "SHOW "); ok {
		return []any{settings[name]}
	}
	if strings.Contains(sql, "pg_is_in_recovery") {
		return []any{fmt.Sprint(stubPID), "f"}
	}
	if s.Answer == nil {
		return nil
	}
	return s.Answer(sql)
}

func refusal(row []any) (e *pgproto3.ErrorResponse, ok bool) {
	if len(row) == 1 {
		e, ok = row[0].(*pgproto3.ErrorResponse)
	}
	return e, ok
}

const boolOID, textOID = 16, 25

func describe(row []any) *pgproto3.RowDescription {
	d := new(pgproto3.RowDescription)
	for _, v := range row {
		f := pgproto3.FieldDescription{Name: []byte("x"), DataTypeOID: textOID, DataTypeSize: -1}
		if _, ok := v.(bool); ok {
			f.DataTypeOID, f.DataTypeSize = boolOID, 1
		}
		d.Fields = append(d.Fields, f)
	}
	return d
}

func send(b *pgproto3.Backend, row []any, binary bool) {
	if row != nil {
		d := new(pgproto3.DataRow)
		for _, v := range row {
			text := fmt.Sprint(v)
			if v, ok := v.(bool); ok {
				text = map[bool]string{false: "f", true: "t"}[v]
				if binary {
					text = map[bool]string{false: "\x00", true: "\x01"}[v]
				}
			}
			d.Values = append(d.Values, []byte(text))
		}
		b.Send(d)
	}
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
}
