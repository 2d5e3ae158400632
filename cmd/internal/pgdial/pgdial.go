// Package pgdial opens connections from a connection string and libpq's environment. Its sessions
// print values in the format that the stream specifies. Its errors have an exit status and a hint,
// and never contain a password.
package pgdial

import (
	"cmp"
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
	"github.com/pgsluice/pgsluice/cmd/internal/old"
)

// A Server is one side of a migration: its address, and its name in messages.
type Server struct {
	Side string // "source" or "target"
	DSN  string // URI or keywords; empty: libpq's environment
	App  string // application_name
	// PasswordCommand prints the password for a connection. A shell runs it for each one. If it is
	// empty, the connection string or libpq's environment has the password.
	PasswordCommand string
	// Encoding is the client encoding of the connection; empty: see ClientEncoding.
	Encoding string
	// Standby allows a source that is a standby.
	Standby bool
	// Sessions collects the opened sessions; nil: they are not collected.
	Sessions *Sessions
	// Once is set if most statements are executed only once in a session: none is prepared, which
	// would take one more round trip.
	Once bool
	// LockTimeout is how long a statement queues for a lock; empty: for any time.
	LockTimeout string
}

// Source returns the server named by --source or PGSLUICE_SOURCE, with the password command of
// --source-password-command or PGSLUICE_SOURCE_PASSWORD_COMMAND.
func Source(dsn, command, app string) Server { return server("source", dsn, command, app) }

// Target is Source for the other side.
func Target(dsn, command, app string) Server { return server("target", dsn, command, app) }

func server(side, dsn, command, app string) Server {
	env := "PGSLUICE_" + strings.ToUpper(side)
	return Server{Side: side, DSN: cmp.Or(dsn, os.Getenv(env)), App: app, Sessions: new(Sessions),
		PasswordCommand: cmp.Or(command, os.Getenv(env+"_PASSWORD_COMMAND"))}
}

// connectTimeout bounds one attempt to connect, so that a firewall that drops packets causes an
// error and not a hang.
const connectTimeout = 20 * time.Second

// libpq lists the environment variables that name a server or a user. Without any of them and
// without a connection string, libpq's default, the local server, would be a guess.
var libpq = []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"}

// Given returns an error if neither the connection string nor the environment names the server.
func (s Server) Given() error {
	if s.DSN != "" || slices.ContainsFunc(libpq, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil
	}
	return fault.New(fault.Usage, "no %s specified", s.Side).
		WithHint("Set PGSLUICE_%s, or give --%s: a URI like postgres://user@host:5432/database. libpq's variables (PGHOST, PGSERVICE, …) work as well.",
			strings.ToUpper(s.Side), s.Side)
}

func (s Server) config() (*pgx.ConnConfig, error) {
	if err := s.Given(); err != nil {
		return nil, err
	}
	c, err := s.parse()
	if err != nil {
		return nil, err
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	pin(c.RuntimeParams)
	if s.LockTimeout != "" {
		c.RuntimeParams["lock_timeout"] = s.LockTimeout
	}
	if s.Once {
		c.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = s.App
	}
	return c, nil
}

// redact removes the connection string, which may contain a password, from pgx's message.
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

// ConnectNoticing is like Connect, and passes the session's notices on. The session gets only
// errors unless it raises client_min_messages.
func (s Server) ConnectNoticing(ctx context.Context, notice func(*pgconn.Notice)) (*pgx.Conn, error) {
	c, err := s.config()
	if err != nil {
		return nil, err
	}
	if notice != nil {
		c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n) }
	}
	s.follow(&c.Config)
	var conn *pgx.Conn
	err = s.speak(ctx, &c.Config, func() (*pgconn.PgConn, error) {
		if conn, err = pgx.ConnectConfig(ctx, c); err != nil {
			return nil, err
		}
		return conn.PgConn(), nil
	})
	if err != nil {
		return nil, err
	}
	pid, err := s.prepare(ctx, conn.PgConn(), &c.Config)
	if err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	s.Sessions.add(conn.PgConn().Conn(), pid)
	return conn, nil
}

// ConnectRaw opens a session over a connection that can read in gulps (see Gulp). With replication,
// the session also speaks the replication protocol.
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
	var conn *pgconn.PgConn
	if err := s.speak(ctx, &c.Config, func() (*pgconn.PgConn, error) {
		conn, err = pgconn.ConnectConfig(ctx, &c.Config)
		return conn, err
	}); err != nil {
		return nil, nil, mayReplicate(replication, err)
	}
	if replication && !old.Walsender(Version(conn)) {
		// The startup parameters are all that it takes of our settings.
		s.Sessions.add(conn.Conn(), conn.PID())
		return conn, gulp, nil
	}
	pid, err := s.prepare(ctx, conn, &c.Config)
	if err != nil {
		_ = conn.Close(ctx)
		return nil, nil, err
	}
	s.Sessions.add(conn.Conn(), pid)
	return conn, gulp, nil
}

// mayReplicate adds a hint to the error of a role that may not open a replication session.
func mayReplicate(replication bool, err error) error {
	var pg *pgconn.PgError
	var f *fault.Error
	if replication && errors.As(err, &pg) && pg.Code == "42501" && errors.As(err, &f) {
		return f.WithHint("The role needs the REPLICATION attribute: ALTER ROLE … REPLICATION. On RDS and Aurora: GRANT rds_replication TO …")
	}
	return err
}

// ClientEncoding returns the client encoding of a connection: UTF8, or SQL_ASCII if the database
// does not know the encoding of its text.
func ClientEncoding(c *pgconn.PgConn) string {
	if c.ParameterStatus("server_encoding") == "SQL_ASCII" {
		return "SQL_ASCII"
	}
	return "UTF8"
}

// VersionText formats a number returned by Version for people: 15.2.
func VersionText(v int) string {
	if v < 100000 {
		return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
	}
	return fmt.Sprintf("%d.%d", v/10000, v%10000)
}

// Version returns the server's version as in server_version_num: 150020.
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

// Explain turns a driver's error into one for users. It returns errors that have a status already
// unchanged.
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
			if pg.Code == "42501" && e.Hint == "" {
				e.Hint = "If pgcutover fence closed the database, pgcutover unfence opens it, with the role that closed it. Otherwise: GRANT CONNECT ON DATABASE …"
			}
			if e.Status == fault.Permission && e.Hint == "" {
				e.Hint = "Check the user name, the password in PGPASSFILE or the environment, and the server's pg_hba.conf."
			}
			if name := refusedByPooler(pg); name != "" {
				return s.pooler(name, pg)
			}
			if lacksSetting(pg) {
				return s.tooOld(pg)
			}
			if pg.Code == "53300" && e.Hint == "" {
				e.Hint = "Use fewer connections with --jobs 1, or raise max_connections, or the CONNECTION LIMIT of the role or the database."
			}
			if pg.Code == "3D000" && e.Hint == "" {
				e.Hint = "Check the database name in the connection string. If it is right, create the database: CREATE DATABASE …"
			}
			return e
		}
		e.Err = fmt.Errorf("%s: %w", s.Side, err)
		if pg.Code == "53400" && e.Hint == "" {
			e.Hint = "Raise the limit that the message names for the role: ALTER ROLE … SET temp_file_limit = -1"
		}
		if pg.Code == "25006" && e.Hint == "" {
			e.Hint = fmt.Sprintf("The %s is a standby, or default_transaction_read_only is on for the role or the database. If pgcutover fence set it, pgcutover unfence resets it. Otherwise: ALTER DATABASE … RESET default_transaction_read_only", s.Side)
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
		e.Hint = fmt.Sprintf("Check that the server is running and that no firewall is in the way: try psql with the connection string of --%s.", s.Side)
		if noTLS(err) {
			e.Status, e.Hint = fault.Config,
				"In the connection string, sslmode sets whether TLS is used and what is verified, and sslrootcert sets the trusted authorities."
		}
		return e
	}
	if Lost(err) {
		return &fault.Error{Status: fault.TryAgain, Err: fmt.Errorf("lost the connection to the %s: %w", s.Side, err)}
	}
	return err
}

// noTLS reports whether a connection failed because client and server do not agree on TLS. Trying
// again does not help.
func noTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verify) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) ||
		strings.Contains(err.Error(), "server refused TLS connection")
}

// where names the user, the host and the database of a connection attempt. A connection string may
// name several hosts.
func where(c *pgconn.Config) string {
	place := net.JoinHostPort(c.Host, port(c))
	for _, f := range c.Fallbacks {
		if f.Host != c.Host || f.Port != c.Port {
			place = "one of several hosts"
		}
	}
	return fmt.Sprintf("The connection was as role %q to %s, database %q.", c.User, place, c.Database)
}

func port(c *pgconn.Config) string { return strconv.Itoa(int(c.Port)) }

// hideUser reduces pgx's message, which repeats user and database, to the cause. If attempts with
// and without TLS fail alike, it keeps one cause.
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

// OutOfLocks is the SQLSTATE of a transaction that needs more locks than the server has room for. A
// smaller transaction may succeed.
const OutOfLocks = "53200"

// Lost reports whether err means that the connection is lost, so that the same statement may
// succeed on a new one.
func Lost(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.Code[:2] == "08" && pg.SeverityUnlocalized == "ERROR" {
			return false // the server's own connection to a foreign server
		}
		return statusOf(pg) == fault.TryAgain && pg.Code[:2] != "55"
	}
	var n net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &n) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, pgconn.ErrConnClosed)
}

// statusOf maps SQLSTATEs to exit statuses. Only this function decides which errors may be tried
// again.
func statusOf(e *pgconn.PgError) fault.Status {
	switch e.Code {
	case "28000", "28P01", "42501":
		return fault.Permission
	case "3D000", "42704", "57P04": // no such database, no such object, database dropped
		return fault.Unavailable
	case "55006", "55P03": // object in use: the slot; lock timeout
		return fault.TryAgain
	case "55000", "25006": // not in the state: wal_level; read-only: a standby, or a fence
		return fault.Config
	case "53400": // a limit that somebody set, such as temp_file_limit: it does not go away
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
