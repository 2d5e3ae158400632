package sqltext

import "testing"

// Statements are put on one line, unless that changes them.
func TestOneLine(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		"CREATE TYPE s.t (\n    INPUT = a,\n\tOUTPUT = b -- the last\n);\nCREATE  TYPE u;\n": "CREATE TYPE s.t ( INPUT = a, OUTPUT = b ); CREATE  TYPE u;",
		"CREATE FUNCTION f()\n    AS $$int4lt$$;":                                            "CREATE FUNCTION f() AS $$int4lt$$;",
		"CREATE FUNCTION f() AS $$ -- a\nSELECT 1 $$":                                        "",
		"COMMENT ON TABLE t IS 'a\nb'":                                                       "",
	} {
		if got := (Rules{}).OneLine(sql); got != want {
			t.Errorf("%q becomes %q, not %q", sql, got, want)
		}
	}
}
