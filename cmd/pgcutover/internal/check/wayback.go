package check

import (
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/wayback"
)

// wayBack looks for what prevents the way back, and a return over it. The cutover works without:
// scripts/cutover --no-reverse.
func (c *checker) wayBack() error {
	list, err := wayback.Find(c.ctx, c.s, c.t, c.m.Slot)
	if err != nil {
		return err
	}
	if len(list) > 0 && list[0].Never {
		c.warn("way-back", list[0].Hint+" scripts/cutover goes on without a way back.", "there can be no way back to the old primary: %s", list[0].Says)
		return nil
	}
	for _, o := range list {
		remedy := o.Hint
		if remedy == "" {
			remedy = "To cut over without a way back: scripts/cutover --no-reverse"
		}
		f := c.warn("way-back", remedy, "there can be no way back to the old primary: %s", o.Says)
		if len(o.SQL) > 0 {
			f.do(o.Side, superuser, o.SQL...)
		}
	}
	f, err := fencing.GetRights(c.ctx, c.t)
	if err != nil {
		return err
	}
	const closing = "the cutover back would have to close the target: "
	if f.Owner != "" {
		super, err := c.value(c.t, "SELECT r.rolsuper FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba WHERE d.datname = pg_catalog.current_database()")
		if err != nil {
			return err
		}
		w := c.warn("target-owner", "Give the database the owner that it has on the source, and make the role a member of it.", closing+"its role does not own the database")
		if super != "true" {
			w.do("target", superuser, grantRole(c.tv, f.Owner, c.targetUser))
		}
	}
	if len(f.Grants) > 0 {
		c.warn("target-session-rights", "", closing+"its role may not see or end the sessions of other roles").do("target", superuser, f.Grant())
	}
	if len(list) == 0 && f.Owner == "" && len(f.Grants) == 0 {
		c.ok("way-back", "there can be a way back from the target")
	}
	return nil
}
