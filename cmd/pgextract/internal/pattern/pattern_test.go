package pattern_test

import (
	"regexp"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/pattern"
)

func TestParse(t *testing.T) {
	for _, test := range []struct{ pattern, schema, name string }{
		{"orders", "", "^(orders)$"},
		{"Orders", "", "^(orders)$"},
		{`"Orders"`, "", "^(Orders)$"},
		{"app.ord*", "^(app)$", "^(ord.*)$"},
		{"a?p.*", "^(a.p)$", "^(.*)$"},
		{`app."a.b*"`, "^(app)$", `^(a\.b\*)$`},
		{`"He said ""hi"""."x"`, `^(He said "hi")$`, "^(x)$"},
		{"a|b", "", "^(a|b)$"},
		{"price$", "", `^(price\$)$`},
		{"Ärger", "", "^(ärger)$"},
	} {
		schema, name, err := pattern.Parse(test.pattern)
		if schema != test.schema || name != test.name || err != nil {
			t.Errorf("%s: %q, %q, %v", test.pattern, schema, name, err)
		}
	}
	for _, bad := range []string{"", "a.b.c", `"a`, "a."} {
		if s, n, err := pattern.Parse(bad); err == nil {
			t.Errorf("%s: %q, %q", bad, s, n)
		}
	}
}

func TestExact(t *testing.T) {
	for _, name := range []string{`a"b`, "A.b*c", `\`, "x y\n"} {
		_, re, err := pattern.Parse(pattern.Exact("s", name))
		if err != nil || !regexp.MustCompile(re).MatchString(name) {
			t.Errorf("%q: %s, %v", name, re, err)
		}
	}
}
