package check

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// apart checks that source and target are two different databases.
func (c *checker) apart() error {
	same, err := identity.Same(c.ctx, c.s, c.t)
	if err != nil {
		return err
	}
	if same {
		c.fail("same-database", "Check --source and --target, or PGSLUICE_SOURCE and PGSLUICE_TARGET.", "source and target are the same database")
		return nil
	}
	streams, err := progress.Streams(c.ctx, c.s, "")
	if err != nil { // the schema belongs to somebody else
		return nil
	}
	for _, s := range streams {
		if !s.Ended && s.Key.Slot != "" && (c.m.Slot == "" || s.Key.Slot == c.m.Slot) {
			c.fail("source-is-target", "Check whether source and target are swapped. If they are not, use another slot name.",
				"the source is the target of a migration: %v", s.Key)
		}
	}
	return nil
}

// tooOld reports a server that cannot be examined because of its version.
func (c *checker) tooOld(side string, err error) {
	c.side = side
	var f *fault.Error
	_ = errors.As(err, &f)
	if side == "target" {
		c.fail("target-version", f.Hint, "%v. %s", err, f.Detail)
	} else {
		c.fail("source-version", f.Hint, "%v. %s", err, f.Detail)
	}
}

func (c *checker) versions() error {
	s, t := pgdial.VersionText(c.sv), pgdial.VersionText(c.tv)
	if c.sv < old.Newest {
		c.note("source-version", "the source is PostgreSQL %s: changes come through test_decoding, those of the schema are not recorded, and there is no way back: docs/test-decoding.md", s)
	}
	switch {
	case c.tv/10000 < c.sv/10000:
		c.warn("version-order", "Use a target of the source's version or newer: an older version may lack features that the schema uses.",
			"the target (%s) is older than the source (%s)", t, s)
	default:
		c.ok("version-order", "source is PostgreSQL %s, target is PostgreSQL %s", s, t)
	}
	if c.sv < 110000 {
		c.warn("truncate-not-decoded", "Do not truncate tables while the migration runs. The cutover refuses if one may have been truncated.",
			"the source does not decode TRUNCATE before version 11")
	}
	return nil
}

func (c *checker) slotState() error {
	if c.m.Slot == "" {
		return nil
	}
	info, err := slot.Get(c.ctx, c.s, c.m.Slot)
	if err != nil {
		return err
	}
	if info == nil {
		c.ok("slot", "slot %s does not exist yet", c.m.Slot)
		return nil
	}
	c.begun = true
	database, err := c.value(c.s, "SELECT pg_catalog.current_database()")
	if err != nil {
		return err
	}
	if err := info.Usable(c.m.Slot, database); err != nil {
		// The remedy depends on whose slot it is: nobody should drop another migration's slot.
		remedy := "Use another name."
		var f *fault.Error
		if errors.As(err, &f) && f.Hint != "" {
			remedy = f.Hint
		}
		c.fail("slot", remedy, "%v", err)
		return nil
	}
	c.plugin = info.Plugin
	c.ok("slot", "slot %s exists, confirmed up to %v", c.m.Slot, info.Confirmed)
	return nil
}

// outputPlugin looks whether the slot's plugin is allowed, and can carry what it has to.
func (c *checker) outputPlugin() error {
	plugin, err := slot.Plugin(c.plugin, c.sv)
	if err != nil {
		c.fail("output-plugin", "Leave out --plugin.", "%v", err)
		return nil
	}
	allowed, err := c.value(c.s, "SELECT pg_catalog.current_setting('output_plugin_libraries', true)")
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42501":
		c.warn("output-plugin", "Or have a superuser look: SHOW output_plugin_libraries",
			"the source's role may not see which output plugins are allowed; %s is needed", plugin).
			do("source", superuser, "GRANT pg_read_all_settings TO "+c.sourceUser+";")
	case err != nil:
		return err
	}
	if allowed != "" && !strings.Contains(allowed, plugin) {
		c.fail("output-plugin", "ALTER SYSTEM SET output_plugin_libraries = '"+plugin+", …'",
			"the source's output_plugin_libraries does not allow %s: %s", plugin, allowed)
	}
	publications := []string{c.m.Slot}
	if c.begun {
		if publications, err = slot.PublicationsOf(c.ctx, c.s, c.m.Slot); err != nil {
			return err
		}
	}
	var f *fault.Error
	if err := slot.RequireCarries(c.ctx, c.s, plugin, publications); errors.As(err, &f) {
		c.fail("output-plugin", f.Hint, "%v", err)
		return nil
	} else if err != nil {
		return err
	}
	if plugin == slot.TestDecoding {
		c.note("output-plugin", "changes come through test_decoding: keys and names of tables must stay as they are during the migration, see docs/test-decoding.md")
	}
	return nil
}
