package pgdial

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/old"
)

// A connection may lead to something other than a usable server. These errors name it at the first
// connection. They are permanent: trying again does not help.

// ErrTooOld is wrapped by the error for a server of an unsupported version.
var ErrTooOld = errors.New("which is not supported")

// supported returns an error if the version is too old. A source may be older than a target: see
// package old.
func (s Server) supported(version int) error {
	oldest, text := old.Newest, "10"
	remedy := "Use a target of version 10 or newer, and not older than the source."
	if s.Side == "source" {
		oldest, text = old.Oldest, "9.6"
		remedy = "Upgrade the source to version 9.6 or newer, or migrate it with pg_dump while no one writes to it."
	}
	if version >= oldest {
		return nil
	}
	return fault.New(fault.Config, "the %s is PostgreSQL %s, %w", s.Side, VersionText(version), ErrTooOld).
		WithDetail("A %s of PostgreSQL %s or newer is supported.", s.Side, text).WithHint("%s", remedy)
}

// lacksSetting reports whether a server rejected a session because it does not know one of our
// settings.
func lacksSetting(e *pgconn.PgError) bool {
	return e.Code == "42704" && slices.ContainsFunc(pinned, func(x setting) bool { return strings.Contains(e.Message, `"`+x.name+`"`) })
}

// tooOld returns the error for a server that does not know the settings of our sessions.
func (s Server) tooOld(e *pgconn.PgError) error {
	return fault.New(fault.Config, "the %s does not know a setting that every supported version knows: %w", s.Side, e).
		WithDetail("PostgreSQL 10 and newer are supported. Other servers that speak its protocol are not.").
		WithHint("See what it is: psql -c 'SELECT version()'")
}

// standby returns an error for a server in recovery, unless a standby is allowed.
func (s Server) standby() error {
	if s.Side == "source" && s.Standby {
		return nil
	}
	e := fault.New(fault.Config, "the %s is a standby (pg_is_in_recovery() is true) and cannot be written to", s.Side)
	if s.Side == "source" {
		return e.WithDetail("A migration creates a publication and a slot on its source, and closes the source at the cutover.").
			WithHint("Connect to the primary, in --source or PGSLUICE_SOURCE: on the standby, SELECT sender_host, sender_port FROM pg_stat_wal_receiver tells where it is. " +
				"Where the connection string names several hosts, target_session_attrs=read-write finds it.")
	}
	return e.WithHint("Connect to the primary, in --target or PGSLUICE_TARGET. Where the connection string names several hosts, target_session_attrs=read-write finds it.")
}

// notInForce returns the error for a requested setting that is not in force in the session.
func (s Server) notInForce(x setting, got string) error {
	return fault.New(fault.Config, "the session on the %s has %s = %q instead of the requested %q",
		s.Side, x.name, got, x.value).
		WithDetail("A connection pooler between this program and the server, such as PgBouncer, does not pass settings on.").
		WithHint("%s", poolerHint)
}

const poolerHint = "Connect directly to the server's own host and port (usually 5432; PgBouncer often uses 6432). Poolers are not supported in any mode."

// refusedByPooler returns the name of the pooler that rejected a connection because of its startup
// parameters, or "" if the error is a server's.
func refusedByPooler(e *pgconn.PgError) string {
	switch {
	case strings.Contains(e.Message, "RDS Proxy"):
		return "RDS Proxy"
	case e.Code == "08P01" && strings.Contains(e.Message, "unsupported startup parameter"):
		return "PgBouncer"
	}
	return ""
}

// pooler returns the error for a connection that a pooler rejected.
func (s Server) pooler(name string, e *pgconn.PgError) error {
	return &fault.Error{Status: fault.Config,
		Err:    fmt.Errorf("the %s is a connection pooler (%s), not a server: %w", s.Side, name, e),
		Detail: e.Detail, Hint: poolerHint}
}
