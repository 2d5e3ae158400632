// Package pgdial turns a connection string and libpq's environment into a connection whose session
// prints values in the one way that the stream promises, and turns what goes wrong into errors with
// an exit status and a hint. No password leaves it.
package pgdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// A Server is one side of a migration: where it is, and what to call it in messages.
type Server struct {
	Side string // "source" or "target"
	DSN  string // URI or keywords; empty: libpq's environment
	App  string // application_name
	// Encoding is what text crosses the connection in; empty: see ClientEncoding.
	Encoding string
	// Standby is true where a source that is a standby will do.
	Standby bool
	// Sessions are those that were opened; nil: nobody wants to know.
	Sessions *Sessions
}

// Source and Target return the servers that --source and --target, or PGSLUICE_SOURCE and
// PGSLUICE_TARGET, name.
func Source(flag, app string) Server { return server("source", flag, "PGSLUICE_SOURCE", app) }

// Target is like Source.
func Target(flag, app string) Server { return server("target", flag, "PGSLUICE_TARGET", app) }

func server(side, flag, env, app string) Server {
	if flag == "" {
		flag = os.Getenv(env)
	}
	return Server{Side: side, DSN: flag, App: app, Sessions: new(Sessions)}
}

// connectTimeout bounds one attempt to connect, so that a firewall that drops packets is an error
// and not a hang.
const connectTimeout = 20 * time.Second

// libpq are the variables of the environment that say where a server is, or who connects. With none
// of them, and no connection string, nobody has meant a server, and the local one of libpq's
// defaults would be a guess.
var libpq = []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"}

// Given returns an error if nobody has said where the server is.
func (s Server) Given() error {
	if s.DSN != "" || slices.ContainsFunc(libpq, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil
	}
	return fault.New(fault.Usage, "no %s is given", s.Side).
		WithHint("Set PGSLUICE_%s, or give --%s: a URI like postgres://user@host:5432/database. libpq's variables (PGHOST, PGSERVICE, …) will do as well.",
			strings.ToUpper(s.Side), s.Side)
}

func (s Server) config() (*pgx.ConnConfig, error) {
	if err := s.Given(); err != nil {
		return nil, err
	}
	c, err := pgx.ParseConfig(s.DSN)
	if err != nil {
		return nil, fault.New(fault.Usage, "cannot use the %s's connection string: %w", s.Side, redact(err)).
			WithHint("Give a URI like postgres://user@host:5432/database in --%s or PGSLUICE_%s; passwords belong in PGPASSFILE or a service file.",
				s.Side, strings.ToUpper(s.Side))
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	pin(c.RuntimeParams)
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = s.App
	}
	return c, nil
}

// redact keeps pgx's message without a connection string, which may hold a password.
func redact(err error) error {
	var p *pgconn.ParseConfigError
	if errors.As(err, &p) {
		if u := errors.Unwrap(err); u != nil {
			return u
		}
		return errors.New("it cannot be parsed")
	}
	return err
}

// Connect opens an ordinary session.
func (s Server) Connect(ctx context.Context) (*pgx.Conn, error) { return s.ConnectNoticing(ctx, nil) }

// ConnectNoticing is Connect for a session whose notices are wanted. It has none but errors unless
// it asks for more.
func (s Server) ConnectNoticing(ctx context.Context, notice func(*pgconn.Notice)) (*pgx.Conn, error) {
	c, err := s.config()
	if err != nil {
		return nil, err
	}
	if notice != nil {
		c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n) }
	}
	s.follow(&c.Config)
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, s.Explain(err)
	}
	pid, err := s.prepare(ctx, conn.PgConn(), &c.Config)
	if err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	s.Sessions.add(conn.PgConn().Conn(), pid)
	return conn, nil
}

// ConnectRaw opens a session over a connection that can read in gulps (see Gulp); with replication
// it speaks the replication protocol as well.
func (s Server) ConnectRaw(ctx context.Context, replication bool) (*pgconn.PgConn, *Gulp, error) {
	c, err := s.config()
	if err != nil {
		return nil, nil, err
	}
	if replication {
		c.RuntimeParams["replication"] = "database"
	}
	var gulp *Gulp
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if gulp, err = newGulp(conn); err == nil && replication {
			gulp.expectAnswers()
		}
		return gulp, err
	}
	s.follow(&c.Config)
	conn, err := pgconn.ConnectConfig(ctx, &c.Config)
	if err != nil {
		return nil, nil, mayReplicate(replication, s.Explain(err))
	}
	pid, err := s.prepare(ctx, conn, &c.Config)
	if err != nil {
		_ = conn.Close(ctx)
		return nil, nil, err
	}
	s.Sessions.add(conn.Conn(), pid)
	return conn, gulp, nil
}

// mayReplicate says what to do about a role that is refused a session because that is to speak the
// replication protocol.
func mayReplicate(replication bool, err error) error {
	var pg *pgconn.PgError
	var f *fault.Error
	if replication && errors.As(err, &pg) && pg.Code == "42501" && errors.As(err, &f) {
		return f.WithHint("The role needs the REPLICATION attribute: ALTER ROLE … REPLICATION. On RDS and Aurora: GRANT rds_replication TO …")
	}
	return err
}

// ClientEncoding returns the encoding that text crosses the connection in: UTF8, unless the
// database does not know what its text is.
func ClientEncoding(c *pgconn.PgConn) string {
	if c.ParameterStatus("server_encoding") == "SQL_ASCII" {
		return "SQL_ASCII"
	}
	return "UTF8"
}

// VersionText prints a number that Version has returned as people know it: 15.2.
func VersionText(v int) string {
	if v < 100000 {
		return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
	}
	return fmt.Sprintf("%d.%d", v/10000, v%10000)
}

// Version returns the server's version as server_version_num has it: 150020.
func Version(c *pgconn.PgConn) int {
	// "15.20 (Debian 15.20-0)", "9.6.24", "18beta1"
	s, _, _ := strings.Cut(c.ParameterStatus("server_version"), " ")
	var n [3]int
	for i, part := range strings.SplitN(s, ".", 3) {
		digits := part
		if j := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' }); j >= 0 {
			digits = part[:j]
		}
		n[i], _ = strconv.Atoi(digits)
	}
	if n[0] >= 10 {
		return n[0]*10000 + n[1]
	}
	return n[0]*10000 + n[1]*100 + n[2]
}

// Explain turns an error of the driver into one for users. Errors that have a status already are
// returned as they are.
func (s Server) Explain(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) || errors.Is(err, context.Canceled) {
		return err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		e := &fault.Error{Status: statusOf(pg), Detail: pg.Detail, Hint: pg.Hint}
		var c *pgconn.ConnectError
		if errors.As(err, &c) {
			e.Err = fmt.Errorf("could not connect to the %s: %w", s.Side, pg)
			if e.Detail == "" {
				e.Detail = where(c.Config)
			}
			if e.Status == fault.Permission && e.Hint == "" {
				e.Hint = "Check the user, and the password in PGPASSFILE or the environment; pg_hba.conf of the server decides who may connect."
			}
			if name := refusedByPooler(pg); name != "" {
				return s.pooler(name, pg)
			}
			if lacksSetting(pg) {
				return s.tooOld(pg)
			}
			if pg.Code == "53300" && e.Hint == "" {
				e.Hint = "Raise max_connections, or CONNECTION LIMIT of the role or the database; or use fewer connections: --jobs 1."
			}
			if pg.Code == "3D000" && e.Hint == "" {
				e.Hint = "Its name stands in the connection string; if it is right, create it there: CREATE DATABASE …"
			}
			return e
		}
		e.Err = fmt.Errorf("%s: %w", s.Side, err)
		if pg.Code == "25006" && e.Hint == "" {
			e.Hint = fmt.Sprintf("The %s is a standby, or default_transaction_read_only is on there for the role or the database: by pgcutover fence, which unfence takes back, or by ALTER ROLE or DATABASE … SET.", s.Side)
		}
		return e
	}
	var c *pgconn.ConnectError
	if errors.As(err, &c) {
		e := &fault.Error{Status: fault.TryAgain, Err: fmt.Errorf("could not connect to the %s: %w", s.Side, hideUser(c))}
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound {
			e.Status = fault.Unavailable
		}
		e.Hint = fmt.Sprintf("Is the server running, and does a firewall let this host reach it? psql with the same --%s tells.", s.Side)
		if noTLS(err) {
			e.Status, e.Hint = fault.Config,
				"sslmode in the connection string says whether TLS is used and what is verified, sslrootcert which authorities are trusted."
		}
		return e
	}
	if Lost(err) {
		return &fault.Error{Status: fault.TryAgain, Err: fmt.Errorf("lost the connection to the %s: %w", s.Side, err)}
	}
	return err
}

// noTLS reports whether a connection failed because client and server do not agree on TLS, which
// trying again does not change.
func noTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verify) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) ||
		strings.Contains(err.Error(), "server refused TLS connection")
}

// where says who wanted to connect to what; a connection string that names several hosts may mean
// any of them.
func where(c *pgconn.Config) string {
	place := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	for _, f := range c.Fallbacks {
		if f.Host != c.Host || f.Port != c.Port {
			place = "one of several hosts"
		}
	}
	return fmt.Sprintf("That was as %q at %s, database %q.", c.User, place, c.Database)
}

// hideUser reduces pgx's message, which repeats user and database, to the cause. Attempts with and
// without TLS that fail alike are told once.
func hideUser(c *pgconn.ConnectError) error {
	err := c.Unwrap()
	if err == nil {
		return c
	}
	var causes []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !slices.ContainsFunc(causes, func(told string) bool { return strings.HasSuffix(told, line) }) {
			causes = append(causes, line)
		}
	}
	return errors.New(strings.Join(causes, "; "))
}

// OutOfLocks is the SQLSTATE of a transaction that holds more locks than the server has room for. A
// smaller one may succeed.
const OutOfLocks = "53200"

// Lost reports whether err means that the connection is gone, so that the same thing may work on
// another one.
func Lost(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.Code[:2] == "08" && pg.SeverityUnlocalized == "ERROR" {
			return false // the server speaks of a connection of its own, to a foreign server
		}
		return statusOf(pg) == fault.TryAgain && pg.Code[:2] != "55"
	}
	var n net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &n) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, pgconn.ErrConnClosed)
}

// statusOf maps SQLSTATEs. It is the only place that decides what may be tried again.
func statusOf(e *pgconn.PgError) fault.Status {
	switch e.Code {
	case "28000", "28P01", "42501":
		return fault.Permission
	case "3D000", "42704", "57P04": // no such database, no such object, database dropped
		return fault.Unavailable
	case "55006", "55P03": // object in use: the slot; a lock was not to be had in time
		return fault.TryAgain
	case "55000", "25006": // not in the state: wal_level; read-only: a standby, or a fence
		return fault.Config
	case "40001", "40P01":
		return fault.TryAgain
	}
	if len(e.Code) == 5 {
		switch e.Code[:2] {
		case "08", "53", "57":
			// connection, resources, operator intervention (57P01 shutdown, 57P03 starting up)
			return fault.TryAgain
		}
	}
	return fault.Failed
}
