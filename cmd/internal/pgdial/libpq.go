package pgdial

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// libpq has parameters that pgx takes for settings of the server, which would refuse them. They
// must mean the same here as in pg_dump, which gets the same connection string and environment.

// dropped parameters do not change what is read or written, or who reads it.
var dropped = []string{"gsslib", "gssdelegation", "sslcompression", "load_balance_hosts", "tcp_user_timeout", "tty", "authtype"}

// unsupported parameters would be ignored although somebody relies on them. The values listed are
// those that change nothing.
var unsupported = []struct {
	name, env string
	harmless  []string
}{
	{"gssencmode", "PGGSSENCMODE", []string{"disable", "prefer"}},
	{"replication", "", []string{"false", "off", "no", "0"}},
	{"requiressl", "PGREQUIRESSL", []string{"0"}},
	{"requirepeer", "PGREQUIREPEER", nil},
	{"sslcrl", "PGSSLCRL", nil}, {"sslcrldir", "PGSSLCRLDIR", nil}, {"sslkeylogfile", "", nil},
	{"scram_client_key", "", nil}, {"scram_server_key", "", nil},
	{"oauth_issuer", "", nil}, {"oauth_client_id", "", nil}, {"oauth_client_secret", "", nil}, {"oauth_scope", "", nil},
}

// parse is pgx.ParseConfig, with libpq's other parameters.
func (s Server) parse() (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(s.DSN)
	if err != nil {
		return nil, fault.New(fault.Usage, "could not use the %s's connection string: %w", s.Side, redact(err)).
			WithHint("Give a URI like postgres://user@host:5432/database in --%s or PGSLUICE_%s. Passwords belong in PGPASSFILE or a service file.",
				s.Side, strings.ToUpper(s.Side))
	}
	if addr := take(c, "hostaddr", "PGHOSTADDR"); addr != "" {
		if c, err = s.at(c, addr); err != nil {
			return nil, err
		}
	}
	for _, x := range unsupported {
		if v := take(c, x.name, x.env); v != "" && !slices.Contains(x.harmless, v) {
			return nil, s.cannot(x.name, strings.TrimSuffix("Leave it out. Unset "+x.env, ". Unset "))
		}
	}
	for _, name := range dropped {
		delete(c.RuntimeParams, name)
	}
	if c.RuntimeParams["client_encoding"] == "auto" {
		delete(c.RuntimeParams, "client_encoding")
	}
	if app := take(c, "fallback_application_name", ""); c.RuntimeParams["application_name"] == "" && app != "" {
		c.RuntimeParams["application_name"] = app
	}
	if err := s.keepalives(c); err != nil {
		return nil, err
	}
	return c, s.tlsVersions(c)
}

// take removes a parameter and returns its value, or that of an environment variable.
func take(c *pgx.ConnConfig, name, env string) string {
	v, ok := c.RuntimeParams[name]
	delete(c.RuntimeParams, name)
	if !ok && env != "" {
		v = os.Getenv(env)
	}
	return v
}

// cannot returns the error of a parameter that cannot be used. Its value may be a secret.
func (s Server) cannot(name, hint string) error {
	return fault.New(fault.Usage, "could not use parameter %s of the %s's connection string", name, s.Side).
		WithHint("%s", hint)
}

// at has the connection lead to an address. The host is only the name in the server's certificate.
func (s Server) at(c *pgx.ConnConfig, addr string) (*pgx.ConnConfig, error) {
	if _, err := netip.ParseAddr(addr); err != nil {
		return nil, s.cannot("hostaddr", "Give a single IP address in hostaddr or PGHOSTADDR.")
	}
	if strings.HasPrefix(c.Host, "/") || strings.HasPrefix(c.Host, "@") { // the default, or a socket
		again, err := pgx.ParseConfig(withHost(s.DSN, addr))
		if err != nil || again.Host != addr {
			return nil, s.cannot("hostaddr", "Give the host's name as well.")
		}
		c = again
		delete(c.RuntimeParams, "hostaddr")
	}
	for _, f := range c.Fallbacks {
		if f.Host != c.Host || f.Port != c.Port {
			return nil, s.cannot("hostaddr", "Give a single host with hostaddr or PGHOSTADDR.")
		}
	}
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{addr}, nil }
	return c, nil
}

// withHost returns a connection string that names another host.
func withHost(dsn, host string) string {
	if _, rest, uri := strings.Cut(dsn, "://"); uri {
		sep := "?"
		if strings.Contains(rest, "?") {
			sep = "&"
		}
		return dsn + sep + "host=" + url.QueryEscape(host)
	}
	return strings.TrimSpace(dsn + " host='" + host + "'")
}

// keepalives sets how the kernel finds out that the server is gone.
func (s Server) keepalives(c *pgx.ConnConfig) error {
	d := &net.Dialer{Timeout: c.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true}}
	given := false
	number := func(name string) (int, error) {
		v := take(c, name, "")
		if v == "" {
			return 0, nil
		}
		given = true
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return 0, s.cannot(name, "Its value is a number.")
		}
		return n, nil
	}
	on, set := c.RuntimeParams["keepalives"]
	if _, err := number("keepalives"); err != nil {
		return err
	}
	if set && on == "0" {
		d.KeepAliveConfig.Enable, d.KeepAlive = false, -1
	}
	idle, err := number("keepalives_idle")
	if err != nil {
		return err
	}
	interval, err := number("keepalives_interval")
	if err != nil {
		return err
	}
	if d.KeepAliveConfig.Count, err = number("keepalives_count"); err != nil {
		return err
	}
	d.KeepAliveConfig.Idle, d.KeepAliveConfig.Interval = time.Duration(idle)*time.Second, time.Duration(interval)*time.Second
	if given {
		c.DialFunc = d.DialContext
	}
	return nil
}

var tlsVersions = map[string]uint16{"TLSv1": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}

// tlsVersions limits the versions of TLS.
func (s Server) tlsVersions(c *pgx.ConnConfig) error {
	all := []*tls.Config{c.TLSConfig}
	for _, f := range c.Fallbacks {
		all = append(all, f.TLSConfig)
	}
	for name, set := range map[string]func(*tls.Config, uint16){
		"ssl_min_protocol_version": func(t *tls.Config, v uint16) { t.MinVersion = v },
		"ssl_max_protocol_version": func(t *tls.Config, v uint16) { t.MaxVersion = v },
	} {
		value := take(c, name, "PG"+strings.ToUpper(strings.ReplaceAll(name, "_", "")))
		if value == "" {
			continue
		}
		version, known := tlsVersions[value]
		if !known {
			return s.cannot(name, "Its value is TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3.")
		}
		for _, t := range all {
			if t != nil {
				set(t, version)
			}
		}
	}
	return nil
}
