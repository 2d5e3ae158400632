package check

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/roles"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// For each service that is recognized, the findings say where its settings are.
func TestServices(t *testing.T) {
	services := []string{"plain"}
	for _, part := range strings.Split(roles.Service, "THEN '")[1:] {
		name, _, _ := strings.Cut(part, "'")
		services = append(services, name)
	}
	if len(services) < 9 {
		t.Errorf("only %q are recognized", services)
	}
	for _, name := range services {
		c := &checker{service: [2]string{name, name}}
		if decoding[name] == "" || (c.where(source) == "") != (name == "plain") {
			t.Errorf("%s: %q %q", name, decoding[name], c.where(source))
		}
		if sql := c.reload(source, "fsync", "on"); (len(sql) > 0) != (name == "plain") {
			t.Errorf("%s: %q", name, sql)
		}
	}
	for name := range decoding {
		if !slices.Contains(services, name) {
			t.Errorf("%s is not recognized", name)
		}
	}
}

// A slot that nobody reads is worth a warning when it keeps much WAL.
func TestOtherSlots(t *testing.T) {
	for _, x := range []struct{ kept, severity string }{{"8000000", note}, {"3000000000", warning}} {
		c := &checker{m: &session.Migration{Slot: "mig"}}
		c.otherSlots([][]string{{"mig", "5000000000"}, {"mig_back", "1"}, {"theirs", x.kept}}, nil)
		if len(c.list) != 1 || c.list[0].Severity != x.severity || !strings.Contains(c.list[0].Text, "1 slot of the source: theirs") {
			t.Errorf("%+v", c.list)
		}
	}
}
