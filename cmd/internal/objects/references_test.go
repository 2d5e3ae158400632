package objects

import "testing"

func TestReferences(t *testing.T) {
	for sql, want := range map[string][2]string{
		`fk FOREIGN KEY (a) REFERENCES public.parent(id) ON DELETE CASCADE;`:   {"public", "parent"},
		`"REFERENCES" FOREIGN KEY ("references") REFERENCES "a""b"."Ü.x"(id);`: {`a"b`, "Ü.x"},
		`fk FOREIGN KEY (a) REFERENCES parent(id)`:                             {"", "parent"},
		`c CHECK ((a > 0))`: {"", ""},
	} {
		if schema, table := References(sql); schema != want[0] || table != want[1] {
			t.Errorf("%s: %q, %q", sql, schema, table)
		}
	}
}
