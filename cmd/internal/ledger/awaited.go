package ledger

import (
	"fmt"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// Objects that wait for the cutover, such as foreign keys and triggers, are not on the target yet.
// The cutover would create them as they were at the time of the load, even if the source has
// changed since.

// creates reports whether a recorded object creates something. Other recorded objects only complete
// an object, or restore the state of one that was disabled.
func creates(o *progress.Object) bool {
	switch o.Type {
	case "COMMENT", "ACL", "OWNER", "SECURITY LABEL", "ROW SECURITY", "MATERIALIZED VIEW DATA":
		return false
	}
	return !strings.HasSuffix(o.Type, " STATE") || strings.HasPrefix(o.SQL, "CREATE ")
}

// An awaited object is the record of an object that is still to be created.
type awaited struct {
	all           []*progress.Object
	itself, notes *progress.Object // the object's own statement, and the one that sets its comment
}

func (a *awaited) add(o *progress.Object) {
	a.all = append(a.all, o)
	switch {
	case o.Type == "COMMENT":
		a.notes = o
	case creates(o) && a.itself == nil:
		a.itself = o
	}
}

// forget returns the statement that keeps the object and its parts from being created.
func (a *awaited) forget() string {
	ids := make([]string, len(a.all))
	for i, o := range a.all {
		ids[i] = fmt.Sprint(o.ID)
	}
	return "UPDATE pgsluice.deferred SET state = 'done' WHERE id IN (" + strings.Join(ids, ", ") + ")"
}

// awaits adds a line if an object to be created has since changed on the source.
func (c *comparison) awaits(o *inventory.Object, a *awaited) {
	var sql []string
	set := func(id int64, definition string) {
		sql = append(sql, fmt.Sprintf("UPDATE pgsluice.deferred SET definition = %s WHERE id = %d", literal(definition), id))
	}
	if want := awaitedSQL(o); a.itself.SQL != want {
		set(a.itself.ID, want)
	}
	note := ""
	if s := o.Fact("comment"); s != "" {
		note = comment(o, s)
	}
	switch {
	case a.notes == nil && note != "":
		sql = append(sql, fmt.Sprintf(`INSERT INTO pgsluice.deferred (stream_id, phase, type, schema_name, table_name, name, definition)
	SELECT stream_id, phase, 'COMMENT', schema_name, table_name, %s, %s FROM pgsluice.deferred WHERE id = %d`, literal(commentName(o, a.itself)), literal(note), a.itself.ID))
	case a.notes != nil && note == "":
		sql = append(sql, fmt.Sprintf("UPDATE pgsluice.deferred SET state = 'done' WHERE id = %d", a.notes.ID))
	case a.notes != nil && a.notes.SQL != note:
		set(a.notes.ID, note)
	}
	if len(sql) == 0 {
		return
	}
	l := Line{key: o.Key, Kind: o.Kind, Problem: "differs", Class: classOf(o),
		Cause: "it has changed on the source since the load, and the target would get it at the cutover as it was then", SQL: sql}
	if l.waits = true; c.renamed() { // the source's statements use the source's names
		l.SQL, l.waits = nil, false
	}
	l.Remedy = "on the target: " + first(l.SQL, "once it is open, make it as it is on the source")
	c.add(l)
}

// commentName returns the name that pg_dump gives to the comment on an object.
func commentName(o *inventory.Object, of *progress.Object) string {
	kind := strings.ToUpper(o.Class)
	if of.Table == "" {
		return kind + " " + o.Name
	}
	return kind + " " + ident(o.Name) + " ON " + ident(of.Table)
}

// awaitedSQL returns the statement that creates an object, in the form that the cutover expects.
// The cutover itself turns foreign keys into ones that do not check existing rows.
func awaitedSQL(o *inventory.Object) string {
	if o.Kind == "foreign key" {
		return "ALTER TABLE " + qualified(o.Schema, o.Table) + "\n    ADD CONSTRAINT " + ident(o.Name) + " " + o.Definition
	}
	return o.SQL
}

// forgets adds the line of an object that the source has dropped and that is still to be created.
func (c *comparison) forgets(k inventory.Key, a *awaited) {
	l := Line{key: k, Kind: strings.ToLower(strings.Replace(a.itself.Type, "FK CONSTRAINT", "foreign key",
		1)), Problem: "dropped",
		Cause: "the source has dropped it since it was loaded, or named it otherwise, and the target would get it at the cutover",
		SQL:   []string{a.forget()}, order: -order[k.Class]}
	l.Remedy = "on the target: " + first(l.SQL, "see --sql")
	c.add(l)
}

// await indexes the recorded objects by what they create.
func (c *comparison) await() {
	c.awaited = make(map[inventory.Key]*awaited)
	for i := range c.Pending {
		o := &c.Pending[i]
		for _, k := range keysOf(o, c.target) {
			c.pending[k] = true
			if k.Class == inventory.Relation {
				c.waits[k] = true
			}
			if c.awaited[k] == nil {
				c.awaited[k] = new(awaited)
			}
			c.awaited[k].add(o)
		}
	}
	for k, a := range c.awaited {
		if a.itself == nil {
			delete(c.awaited, k)
		}
	}
}
