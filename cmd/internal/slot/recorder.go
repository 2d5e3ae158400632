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

// A Recorder is what pgcutover ddl install creates on a source: event triggers that write
// statements into table pgsluice.ddl. The target executes these statements, so the table is trusted
// only while no one but the triggers can write to it.
type Recorder struct {
	Installed bool     // at least some of the event triggers exist
	OID       uint32   // of the table
	Problems  []string // why the table is not trusted
	Carried   []string // publications that carry the table
}

// Trusted reports whether only the event triggers can have written to the table.
func (r *Recorder) Trusted() bool { return r.Installed && r.OID != 0 && len(r.Problems) == 0 }

// Err returns an error if event triggers exist but their table is not trusted.
func (r *Recorder) Err() error {
	if !r.Installed || r.Trusted() {
		return nil
	}
	problems := r.Problems
	if r.OID == 0 {
		problems = append(problems, "there is no table pgsluice.ddl")
	}
	return fault.New(fault.Config, "the recorder of schema changes on the source is not as pgcutover ddl install creates it").
		WithDetail("Differences: %s.", strings.Join(problems, "; ")).
		WithHint("Install it again, as a superuser: pgcutover ddl install")
}

// GetRecorder looks for the recorder in the database of the session.
func GetRecorder(ctx context.Context, c *pgx.Conn) (*Recorder, error) {
	r := new(Recorder)
	if pgdial.Version(c.PgConn()) < 140000 {
		return r, nil
	}
	// Every part must belong to the owner of the event triggers, or to a superuser.
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
				THEN 'not all of its event triggers exist and are enabled' END,
			CASE WHEN EXISTS (SELECT FROM triggers WHERE proowner NOT IN (SELECT oid FROM admins)) THEN 'one of its functions belongs to another role' END,
			CASE WHEN EXISTS (SELECT FROM relation WHERE relowner NOT IN (SELECT oid FROM admins)) THEN 'table pgsluice.ddl belongs to another role' END,
			CASE WHEN EXISTS (SELECT FROM relation WHERE nspowner NOT IN (SELECT oid FROM admins)) THEN 'schema pgsluice belongs to another role' END,
			CASE WHEN EXISTS (SELECT FROM relation WHERE relkind <> 'r') THEN 'pgsluice.ddl is not a table' END,
			CASE WHEN EXISTS (SELECT FROM relation, pg_catalog.aclexplode(relacl) g WHERE g.grantee NOT IN (SELECT oid FROM admins))
				OR EXISTS (SELECT FROM relation, pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) g WHERE a.attrelid = relation.oid AND g.grantee NOT IN (SELECT oid FROM admins))
				THEN 'other roles have privileges on table pgsluice.ddl' END], NULL),
		ARRAY(SELECT p.pubname::pg_catalog.text FROM pg_catalog.pg_publication p WHERE p.puballtables
			OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel x, relation WHERE x.prpubid = p.oid AND x.prrelid = relation.oid))`).
		Scan(&r.Installed, &r.OID, &r.Problems, &r.Carried)
	return r, err
}

// EnsureRecorded adds the recorder's table to a publication, so that a slot created afterwards
// carries schema changes.
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
		// The event trigger adds the table, for the owner of the publication. This statement
		// changes nothing but fires the trigger.
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
			"could not add the recorded schema changes to publication %q on the source: %w",
			publication, err).
			WithHint("As a superuser: ALTER PUBLICATION %s ADD TABLE pgsluice.ddl", id)
	}
	return nil
}

// RequireRecorded returns an error if the source records schema changes, but none of the
// publications carries them or their table is not trusted.
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
	return fault.New(fault.Config, "the source records schema changes, but no publication of the slot carries them").
		WithHint("As a superuser: ALTER PUBLICATION %s ADD TABLE pgsluice.ddl; Or, to stop recording: pgcutover ddl uninstall",
			pgx.Identifier{publications[0]}.Sanitize())
}
