package check

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// extensionsOf selects the source's extensions and their versions.
const extensionsOf = `SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY 1`

// available selects the extensions that the target can create: name, version, installed version,
// and whether the session's role may create it. From version 13 on, an owner of the database may
// create trusted ones.
func available(version int) string {
	trusted := "false"
	if version >= 130000 {
		trusted = "coalesce(v.trusted, false) AND pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')"
	}
	return `SELECT e.name, coalesce(e.default_version, ''), coalesce(e.installed_version, ''), coalesce(NOT v.superuser, true) OR ` + trusted + ` OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
		FROM pg_catalog.pg_available_extensions e LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version`
}

// unlisted judges the error of a target that cannot list its extensions: one broken file of any
// extension is enough for that.
func (c *checker) unlisted(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || isDenied(err) || pg.Code == "55P03" {
		return false
	}
	c.warn("extensions-unlisted", "Check that the target has the extensions "+count.Some(column(c.answers[source]["the extensions"].rows, 0))+".",
		"the target cannot list its extensions: %s", pg.Message)
	return true
}

func (c *checker) extensions(s, t [][]string) {
	if missing := lacking(s, t); len(missing) > 0 {
		c.fail("extensions-missing", "Install them on the target (Azure: server parameter azure.extensions), or drop them on the source.",
			"extensions that the target does not have: %s", count.Some(missing))
	} else {
		c.ok("extensions-missing", "the target has all extensions: %d", len(s))
	}
	have := make(map[string][]string)
	for _, r := range t {
		have[r[0]] = r
	}
	var versions, denied, creates []string
	for _, r := range s {
		h := have[r[0]]
		if h == nil {
			continue
		}
		there := h[2] // installed
		if there == "" {
			there = h[1]
			if h[3] != "t" {
				denied = append(denied, r[0])
				creates = append(creates, "CREATE EXTENSION "+text.Ident(r[0])+";")
			}
		}
		if there != r[1] {
			versions = append(versions, fmt.Sprintf("%s is %s on the source and %s on the target", r[0], r[1], there))
		}
	}
	if len(denied) > 0 {
		c.warn("extensions-denied", "Create them before the load; in another schema than public, as on the source: WITH SCHEMA …",
			"the target's role may not create these extensions: %s", count.Some(denied)).do("target", superuser, creates...)
	}
	if len(versions) > 0 {
		c.note("extension-versions", "extensions have other versions: %s", count.Some(versions))
	}
}
