package pgdial_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// libpq's parameters have an effect, are dropped where they need none, or are refused by name. The
// server never gets them.
func TestLibpqParameters(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	at := fmt.Sprintf("port=%d user=postgres dbname=%s sslmode=disable ", d.Port, d.Name)
	connect := ways["Connect"]
	for _, more := range []string{"host=localhost", "host=127.0.0.1 gssencmode=prefer gssdelegation=0 sslcompression=0 load_balance_hosts=random tcp_user_timeout=9",
		"host=127.0.0.1 keepalives=1 keepalives_idle=30 keepalives_interval=10 keepalives_count=3", "host=127.0.0.1 keepalives=0",
		"host=127.0.0.1 client_encoding=auto replication=false ssl_min_protocol_version=TLSv1.2 ssl_max_protocol_version=TLSv1.3",
		"hostaddr=127.0.0.1", "host=no.such.host.invalid hostaddr=127.0.0.1", "host=/nowhere hostaddr=127.0.0.1"} {
		c, err := connect(pgtest.Context(t), source(at+"fallback_application_name=fallback "+more))
		if err != nil {
			t.Errorf("%s: %v", more, err)
			continue
		}
		if got := ask(t, c, "SHOW application_name"); got != "fallback" {
			t.Errorf("%s: application_name is %q", more, got)
		}
		_ = c.Close(pgtest.Context(t))
	}
	refused := func(dsn, name string) {
		t.Helper()
		c, err := connect(pgtest.Context(t), source(dsn))
		if err == nil {
			_ = c.Close(pgtest.Context(t))
		}
		if fault.StatusOf(err) != fault.Usage || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	for _, x := range []string{"gssencmode=require", "replication=database", "requirepeer=postgres", "sslcrl=x", "oauth_client_secret=hidden",
		"keepalives_idle=hidden", "ssl_min_protocol_version=SSLv3", "hostaddr=localhost", "host=a,b hostaddr=127.0.0.1"} {
		words := strings.Fields(x)
		name, _, _ := strings.Cut(words[len(words)-1], "=")
		refused(at+x, name)
	}
	// The environment counts as well, also for a URI without a host.
	t.Setenv("PGHOSTADDR", "127.0.0.1")
	for _, dsn := range []string{at + "host=no.such.host.invalid", fmt.Sprintf("postgres://postgres@:%d/%s?sslmode=disable", d.Port, d.Name)} {
		c, err := connect(pgtest.Context(t), source(dsn))
		if err != nil {
			t.Errorf("PGHOSTADDR, %s: %v", dsn, err)
			continue
		}
		_ = c.Close(pgtest.Context(t))
	}
	t.Setenv("PGGSSENCMODE", "require")
	refused(at+"host=127.0.0.1", "gssencmode")
}
