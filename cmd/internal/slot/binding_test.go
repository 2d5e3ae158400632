package slot

import "testing"

// A binding is a line of a comment; all others stay as they are.
func TestBinding_I7(t *testing.T) {
	b := Binding{Token: "T", Target: "X"}
	for _, c := range []struct{ before, after string }{
		{"", "pgsluice slot=mig token=T target=X"},
		{"the DBA's\nown words", "the DBA's\nown words\npgsluice slot=mig token=T target=X"},
		{"a\npgsluice slot=mig token=old target=old\nb", "a\nb\npgsluice slot=mig token=T target=X"},
		{"pgsluice slot=mig2 target=Y", "pgsluice slot=mig2 target=Y\npgsluice slot=mig token=T target=X"},
	} {
		got := withBinding(c.before, "mig", b)
		if got != c.after {
			t.Errorf("%q became %q", c.before, got)
		}
		if have, found := bindingIn(got, "mig"); !found || have != b {
			t.Errorf("%q has %+v", got, have)
		}
		if have, found := bindingIn(got, "mi"); found {
			t.Errorf("%q has %+v of another slot", got, have)
		}
	}
	if got := withBinding("a\npgsluice slot=mig token=T", "mig", Binding{}); got != "a" {
		t.Errorf("%q is left", got)
	}
	if got := escapeLiteral("it's\n" + `a\b`); got != ` E'it''s\na\\b'` {
		t.Error(got)
	}
}
