package check

import (
	"errors"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
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

func (c *checker) versions() error {
	s, t := pgdial.VersionText(c.sv), pgdial.VersionText(c.tv)
	switch {
	case c.sv < 100000:
		c.fail("source-version", "Upgrade the source to version 10 or newer.", "the source is PostgreSQL %s; changes can be decoded from version 10 on", s)
	case c.tv < 100000:
		c.fail("target-version", "Use a target of version 10 or newer.", "the target is PostgreSQL %s", t)
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
	c.ok("slot", "slot %s exists, confirmed up to %v", c.m.Slot, info.Confirmed)
	return nil
}
