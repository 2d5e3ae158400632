package slot_test

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// PostgreSQL 19 decodes with wal_level = replica as well: it has effective_wal_level, and raises
// that by itself. There is no such server here, so something answers like one.
func TestEffectiveWALLevel_H8(t *testing.T) {
	for _, x := range []struct {
		version, level string
		raises         bool
		status         fault.Status
	}{
		{"19.0", "replica", true, fault.OK},
		{"19.0", "logical", true, fault.OK},
		{"19.0", "minimal", true, fault.Config},
		{"18.4", "replica", false, fault.Config},
		{"18.4", "logical", false, fault.OK},
	} {
		uri := pgtest.Stub{Version: x.version, Answer: func(sql string) []any {
			if strings.Contains(sql, "effective_wal_level") {
				return []any{x.level, x.raises}
			}
			return nil
		}}.Start(t)
		ctx := pgtest.Context(t)
		c, err := pgdial.Server{Side: "source", DSN: uri, App: "test"}.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := slot.RequireLogical(ctx, c); fault.StatusOf(err) != x.status {
			t.Errorf("%s with wal_level = %s: %v", x.version, x.level, err)
		}
		_ = c.Close(ctx)
	}
	// And no real server is taken for one.
	d := pgtest.Source(t).Database(t, "")
	if _, logical, err := slot.WALLevel(pgtest.Context(t), connect(t, d)); err != nil || !logical {
		t.Errorf("%v, %v", logical, err)
	}
}
