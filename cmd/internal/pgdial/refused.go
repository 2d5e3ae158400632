package pgdial

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// What a connection may lead to instead of a server that can be worked with, told by its name at
// the first connection, and for good: to try again does not change it.

// oldest is the first version of PostgreSQL that is supported: pgoutput, and publications, came
// with it.
const oldest = 100000

// supported refuses a version that is too old.
func (s Server) supported(version int) error {
	if version >= oldest {
		return nil
	}
	remedy := "Use a target of version 10 or newer, and not older than the source."
	if s.Side == "source" {
		remedy = "Upgrade the source to version 10 or newer, or load it with pg_dump while nobody writes to it."
	}
	return fault.New(fault.Config, "the %s is PostgreSQL %d.%d.%d, which is not supported", s.Side,
		version/10000, version/100%100, version%100).
		WithDetail("Versions 10 and newer are.").WithHint("%s", remedy)
}

// lacksSetting reports whether a server has refused a session because it does not know one of our
// settings.
func lacksSetting(e *pgconn.PgError) bool {
	return e.Code == "42704" && slices.ContainsFunc(pinned, func(x setting) bool { return strings.Contains(e.Message, `"`+x.name+`"`) })
}

// tooOld is the error for a server so old that it does not know the settings which sessions begin
// with.
func (s Server) tooOld(e *pgconn.PgError) error {
	return fault.New(fault.Config, "the %s does not know a setting that every supported version knows: %w", s.Side, e).
		WithDetail("Versions of PostgreSQL before 10 are not supported, nor are other servers that speak its protocol.").
		WithHint("See what it is: psql -c 'SELECT version()'")
}

// standby refuses a server that is in recovery, where that cannot serve.
func (s Server) standby() error {
	if s.Side == "source" && s.Standby {
		return nil
	}
	e := fault.New(fault.Config, "the %s is a standby (pg_is_in_recovery() is true), and nothing can be written to it", s.Side)
	if s.Side == "source" {
		return e.WithDetail("A migration makes a publication and a slot on its source, and closes it at the cutover.").
			WithHint("Connect to the primary, in --source or PGSLUICE_SOURCE: on the standby, SELECT sender_host, sender_port FROM pg_stat_wal_receiver tells where it is. " +
				"Where the connection string names several hosts, target_session_attrs=read-write finds it.")
	}
	return e.WithHint("Connect to the primary, in --target or PGSLUICE_TARGET. Where the connection string names several hosts, target_session_attrs=read-write finds it.")
}

// notInForce is the error for a setting that the session was to begin with and does not have.
func (s Server) notInForce(x setting, got string) error {
	return fault.New(fault.Config, "the session on the %s has %s = %q and not %q, with which it was to begin",
		s.Side, x.name, got, x.value).
		WithDetail("A connection pooler such as PgBouncer, between this program and the server, does not pass settings on.").
		WithHint("%s", poolerHint)
}

const poolerHint = "Connect to the server itself, by its own host and port (5432 unless it was changed; PgBouncer often has 6432): a pooler is not supported, whatever its mode."

// refusedByPooler returns the name of the pooler which, and not a server, has refused a connection
// because of what it asked for; empty if it was none.
func refusedByPooler(e *pgconn.PgError) string {
	switch {
	case strings.Contains(e.Message, "RDS Proxy"):
		return "RDS Proxy"
	case e.Code == "08P01" && strings.Contains(e.Message, "unsupported startup parameter"):
		return "PgBouncer"
	}
	return ""
}

// pooler is the error for a connection that a pooler has refused.
func (s Server) pooler(name string, e *pgconn.PgError) error {
	return &fault.Error{Status: fault.Config,
		Err:    fmt.Errorf("what answers as the %s is a connection pooler (%s), not a server: %w", s.Side, name, e),
		Detail: e.Detail, Hint: poolerHint}
}
