package copyout

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/format"
)

// Binary is chosen only for types that every server writes in the same way.
func TestFormat(t *testing.T) {
	for _, test := range []struct {
		columns []format.Column
		want    string
	}{
		{nil, format.CopyBinary},
		{[]format.Column{{Type: "integer", OID: 23}, {Type: "bpchar", OID: 1042}}, format.CopyBinary},
		{[]format.Column{{Type: "timestamp with time zone", OID: 1184}, {Type: "text[]", OID: 1009}}, format.CopyBinary},
		{[]format.Column{{Type: "integer", OID: 23}, {Type: "regclass", OID: 2205}}, format.CopyText},
		{[]format.Column{{Type: "regclass[]", OID: 2210}}, format.CopyText},
		{[]format.Column{{Type: "integer", OID: 16400}}, format.CopyText}, // a user's type
		{[]format.Column{{Type: "app.mood", OID: 16400}}, format.CopyText},
		{[]format.Column{{Type: "integer", OID: 23}, {Type: "app.mood", OID: 16400, Generated: true}}, format.CopyBinary},
	} {
		if got := Format(&catalog.Table{Relation: format.Relation{Columns: test.columns}}, false); got != test.want {
			t.Errorf("%+v: %s", test.columns, got)
		}
	}
	// Where times are floating-point numbers, they are sent as text.
	for typ, want := range map[string]string{"interval": format.CopyText, "timestamp with time zone[]": format.CopyText, "time without time zone": format.CopyText,
		"tsrange": format.CopyText, "date": format.CopyBinary, "text": format.CopyBinary} {
		if got := Format(&catalog.Table{Relation: format.Relation{Columns: []format.Column{{Type: typ, OID: 1}}}}, true); got != want {
			t.Errorf("%s: %s", typ, got)
		}
	}
}
