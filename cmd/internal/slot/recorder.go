package slot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A Recorder is what pgcutover ddl install makes on a source: event triggers that write statements
// into table pgsluice.ddl. What stands in that table is executed on the target, so it is believed
// only while nobody but the triggers can write there.
type Recorder struct {
	Installed bool     // there are event triggers of that name, or a part of them
	OID       uint32   // of the table
	Problems  []string // why it is not to be believed
	Carried   []string // publications that carry the table
}

// Trusted reports whether the table has what the event triggers have written, and nothing else.
func (r *Recorder) Trusted() bool { return r.Installed && r.OID != 0 && len(r.Problems) == 0 }

// Err is the error for event triggers that are there, and whose table cannot be believed; nil
// without any.
func (r *Recorder) Err() error {
	if !r.Installed || r.Trusted() {
		return nil
	}
	problems := r.Problems
	if r.OID == 0 {
		problems = append(problems, "there is no table pgsluice.ddl")
	}
	return fault.New(fault.Config, "what records changes of the source's schema is not as pgcutover ddl install makes it").
		WithDetail("What is wrong: %s.", strings.Join(problems, "; ")).
		WithHint("As a superuser, make it anew: pgcutover ddl install")
}

// GetRecorder looks for the recorder in the database of the session.
func GetRecorder(ctx context.Context, c *pgx.Conn) (*Recorder, error) {
	r := new(Recorder)
	if pgdial.Version(c.PgConn()) < 140000 {
		return r, nil
	}
	// All of it belongs to who may make event triggers, or to a superuser.
	err := c.QueryRow(ctx, `WITH triggers AS (SELECT t.evtname, t.evtowner, t.evtenabled, p.proname, p.proowner, p.pronamespace, p.prosecdef
			FROM pg_catalog.pg_event_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid
			WHERE t.evtname IN ('pgsluice_start', 'pgsluice_dropped', 'pgsluice_note', 'pgsluice_record', 'pgsluice_sort')),
		admins AS (SELECT evtowner AS oid FROM triggers UNION SELECT oid FROM pg_catalog.pg_roles WHERE rolsuper),
		relation AS (SELECT c.oid, c.relowner, c.relkind, c.relacl, n.nspowner FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'pgsluice' AND c.relname = 'ddl')
		SELECT EXISTS (SELECT FROM triggers WHERE evtname IN ('pgsluice_dropped', 'pgsluice_record')), coalesce((SELECT oid FROM relation), 0)::pg_catalog.int8,
			pg_catalog.array_remove(ARRAY[
			CASE WHEN (SELECT pg_catalog.count(*) FROM triggers WHERE evtenabled IN ('O', 'A') AND evtname = 'pgsluice_' || proname
				AND pronamespace = pg_catalog.to_regnamespace('pgsluice') AND prosecdef = (proname <> 'note')) <> 5
				THEN 'not all of its event triggers are there and enabled' END,
			CASE WHEN EXISTS (SELECT FROM triggers WHERE proowner NOT IN (SELECT oid FROM admins)) THEN 'a function of it belongs to another role' END,
			CASE WHEN EXISTS (SELECT FROM relation WHERE relowner NOT IN (SELECT oid FROM admins)) THEN 'table pgsluice.ddl belongs to another role' END,
			CASE WHEN EXISTS (SELECT FROM relation WHERE nspowner NOT IN (SELECT oid FROM admins)) THEN 'schema pgsluice belongs to another role' END,
			CASE WHEN EXISTS (SELECT FROM relation WHERE relkind <> 'r') THEN 'pgsluice.ddl is no table' END,
			CASE WHEN EXISTS (SELECT FROM relation, pg_catalog.aclexplode(relacl) g WHERE g.grantee NOT IN (SELECT oid FROM admins))
				OR EXISTS (SELECT FROM relation, pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) g WHERE a.attrelid = relation.oid AND g.grantee NOT IN (SELECT oid FROM admins))
				THEN 'others have rights in table pgsluice.ddl' END], NULL),
		ARRAY(SELECT p.pubname::pg_catalog.text FROM pg_catalog.pg_publication p WHERE p.puballtables
			OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel x, relation WHERE x.prpubid = p.oid AND x.prrelid = relation.oid))`).
		Scan(&r.Installed, &r.OID, &r.Problems, &r.Carried)
	return r, err
}

// EnsureRecorded puts the recorder's table into a publication, so that a slot which is made after
// that carries changes of the schema.
func EnsureRecorded(ctx context.Context, c *pgx.Conn, publication string) error {
	r, err := GetRecorder(ctx, c)
	if err != nil || !r.Installed || slices.Contains(r.Carried, publication) {
		return err
	}
	if err := r.Err(); err != nil {
		return err
	}
	id := pgx.Identifier{publication}.Sanitize()
	var owner string
	var mine bool
	if err := c.QueryRow(ctx, `SELECT pg_catalog.pg_get_userbyid(p.pubowner), pg_catalog.pg_has_role(c.relowner, 'USAGE')
		FROM pg_catalog.pg_publication p, pg_catalog.pg_class c WHERE p.pubname = $1 AND c.oid = $2`, publication, r.OID).Scan(&owner, &mine); err != nil {
		return err
	}
	if mine {
		_, err = c.Exec(ctx, "ALTER PUBLICATION "+id+" ADD TABLE pgsluice.ddl")
	} else {
		// The event trigger does it, for who owns the publication: this statement changes nothing,
		// and tells it.
		err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SET LOCAL pgsluice.carry = on; ALTER PUBLICATION "+id+" OWNER TO "+pgx.Identifier{owner}.Sanitize())
			return err
		})
	}
	if err == nil {
		r, err = GetRecorder(ctx, c)
	}
	if err == nil && !slices.Contains(r.Carried, publication) {
		err = fmt.Errorf("the publication belongs to %s", owner)
	}
	if err != nil {
		return fault.New(fault.Permission,
			"changes of the schema are recorded on the source, and could not be put into publication %q: %w",
			publication, err).
			WithHint("As a superuser: ALTER PUBLICATION %s ADD TABLE pgsluice.ddl", id)
	}
	return nil
}

// RequireRecorded fails if changes of the schema are recorded on the source where none of the
// publications carries them, or where others can write.
func RequireRecorded(ctx context.Context, c *pgx.Conn, publications []string) error {
	r, err := GetRecorder(ctx, c)
	if err != nil || !r.Installed {
		return err
	}
	if err := r.Err(); err != nil {
		return err
	}
	for _, p := range r.Carried {
		if slices.Contains(publications, p) {
			return nil
		}
	}
	return fault.New(fault.Config, "changes of the source's schema are recorded, and no publication of the slot carries them").
		WithHint("As a superuser: ALTER PUBLICATION %s ADD TABLE pgsluice.ddl. Or, if they are not wanted: pgcutover ddl uninstall",
			pgx.Identifier{publications[0]}.Sanitize())
}
