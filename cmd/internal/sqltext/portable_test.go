package sqltext_test

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

func TestPortable(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{`SELECT 'a' AS "b\"`, `SELECT 'a' AS "b\"`},
		{`SELECT 'a\'::text, '; DROP TABLE x; --'`, `SELECT E'a\\'::text, '; DROP TABLE x; --'`},
		{`SELECT'a\''b'`, `SELECT E'a\\''b'`},
		{`IN ('\','\d')`, `IN (E'\\',E'\\d')`},
		{"'a\\'\n'\\b'", "E'a\\\\'\n'\\\\b'"},
		{`E'a\'' || U&'\0041' || $$'\'$$`, `E'a\'' || U&'\0041' || $$'\'$$`},
		{`-- '\'`, `-- '\'`},
		{`/* '\' */ '\'`, `/* '\' */ E'\\'`},
	} {
		if got := (sqltext.Rules{}).Portable(c.in); got != c.want {
			t.Errorf("%q becomes %q, not %q", c.in, got, c.want)
		}
	}
	if got := (sqltext.Rules{Backslash: true}).Portable(`'a\'b'`); got != `E'a\'b'` {
		t.Errorf("%q", got)
	}
}
