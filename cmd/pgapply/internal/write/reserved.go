package write

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/format"
)

// reserved reports whether only the server or pgapply may write to a schema. The server lets no
// user create a schema whose name begins with pg_.
func reserved(schema string) bool {
	return schema == progress.Schema || schema == "information_schema" || strings.HasPrefix(schema, "pg_")
}

// Writable returns an error if a stream may not write to a schema. The error names the record and
// its object.
func Writable(kind format.Kind, schema, name string) error {
	if !reserved(schema) {
		return nil
	}
	return fault.New(fault.Data,
		"the stream has a %v record of %s.%s, but a stream may not write to schema %s", kind, schema,
		name, schema).
		WithDetail("Schemas pgsluice, information_schema and pg_… belong to pgsluice and to the server.").
		WithHint("Find the program that wrote the record: pgapply --to json prints the stream's header, which names the program. A filter may have changed the record.")
}

// Alterable is Writable for a statement of a transaction, as far as its record says what the
// statement changes. Temporary tables belong to the session, so they are allowed.
func Alterable(d *format.DDL) error {
	schemas := []string{d.Schema}
	if d.Type == "GRANT" || d.Type == "REVOKE" || d.Type == "COMMENT" || d.Type == "SECURITY LABEL" {
		return nil
	}
	for _, o := range d.Objects {
		if len(o.Names) > 0 && (len(o.Names) > 1 || o.Type == "schema") {
			schemas = append(schemas, o.Names[0])
		}
	}
	for _, s := range schemas {
		if s != "" && !strings.HasPrefix(s, "pg_temp") {
			if err := Writable(d.Kind(), s, d.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// writable is Writable for an object of the schema. For the server's own objects, pg_dump emits
// privileges and comments, which are allowed.
func writable(d *format.DDL) error {
	schema := d.Schema
	if d.Type == "SCHEMA" {
		schema = d.Name
	}
	switch d.Type {
	case "ACL", "COMMENT", "SECURITY LABEL":
		if schema != progress.Schema {
			return nil
		}
	}
	return Writable(d.Kind(), schema, d.Name)
}
