package ledger

import (
	"sort"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// Renames maps source names that differ on the target: schemas, and tables by schema and name.
type Renames struct {
	Schemas map[string]string
	Tables  map[[2]string][2]string

	replacer *strings.Replacer
}

// prepared returns a copy that is faster for many texts.
func (r Renames) prepared() Renames {
	r.replacer = r.replace()
	return r
}

func (r Renames) schema(name string) string {
	if to, ok := r.Schemas[name]; ok {
		return to
	}
	return name
}

func (r Renames) table(schema, name string) [2]string {
	if to, ok := r.Tables[[2]string{schema, name}]; ok {
		return to
	}
	return [2]string{r.schema(schema), name}
}

// Key returns the key on the target for an object of the source.
func (r Renames) Key(k inventory.Key) inventory.Key {
	if len(r.Schemas)+len(r.Tables) == 0 {
		return k
	}
	switch {
	case k.Class == inventory.Schema:
		k.Name = r.schema(k.Name)
	case k.Class == inventory.Relation:
		to := r.table(k.Schema, k.Name)
		k.Schema, k.Name = to[0], to[1]
	case k.Class == inventory.DomainConstraint:
		k.Schema = r.schema(k.Schema)
	case k.Class == inventory.Other, k.Class == inventory.Function, k.Class == inventory.Label:
		k.Schema, k.Name = r.schema(k.Schema), r.text(k.Name)
	case k.Table != "":
		to := r.table(k.Schema, k.Table)
		k.Schema, k.Table = to[0], to[1]
	default:
		k.Schema = r.schema(k.Schema)
	}
	return k
}

// text replaces names in a server's output, in which every name is schema-qualified.
func (r Renames) text(s string) string {
	switch {
	case len(r.Schemas)+len(r.Tables) == 0:
		return s
	case r.replacer != nil:
		return r.replacer.Replace(s)
	}
	return r.replace().Replace(s)
}

func (r Renames) replace() *strings.Replacer {
	var pairs []string
	add := func(from, to string) { pairs = append(pairs, from, to) }
	for from, to := range r.Tables {
		for _, q := range quotations(from[1]) {
			for _, p := range quotations(from[0]) {
				add(p+"."+q, plainest(to[0])+"."+plainest(to[1]))
			}
		}
	}
	for from, to := range r.Schemas {
		for _, p := range quotations(from) {
			add(p+".", plainest(to)+".")
		}
	}
	// Longer names first, because one name may be the prefix of another.
	sort.Sort(byLength(pairs))
	return strings.NewReplacer(pairs...)
}

type byLength []string

func (p byLength) Len() int           { return len(p) / 2 }
func (p byLength) Less(i, j int) bool { return len(p[2*i]) > len(p[2*j]) }
func (p byLength) Swap(i, j int) {
	p[2*i], p[2*j], p[2*i+1], p[2*j+1] = p[2*j], p[2*i], p[2*j+1], p[2*i+1]
}

func quotations(name string) []string { return []string{pgx.Identifier{name}.Sanitize(), name} }

func plainest(name string) string {
	if name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == "" && (name[0] > '9' || name[0] < '0') {
		return name
	}
	return pgx.Identifier{name}.Sanitize()
}
