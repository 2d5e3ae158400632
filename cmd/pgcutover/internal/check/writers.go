package check

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// writers looks for those whom the fence of a cutover would not hold.
func (c *checker) writers() error {
	if err := c.closedBefore(); err != nil {
		return err
	}
	roles, err := fencing.Exempt(c.ctx, c.s)
	if err != nil {
		return err
	}
	if len(roles) > 0 {
		c.warn("write-exempt-roles", "Before the cutover, on the source: ALTER ROLE … RESET default_transaction_read_only (or … IN DATABASE … RESET …)",
			"roles of the source would write in spite of the fence, because they have default_transaction_read_only = off: %s", count.Some(roles))
	}
	subscriptions, err := fencing.Subscriptions(c.ctx, c.s)
	if err != nil {
		return err
	}
	if len(subscriptions) > 0 {
		c.fail("source-subscriptions", "Before the cutover, on the source, as the owner of the subscription: "+strings.Join(fencing.Disable(subscriptions), " "),
			"the source takes changes from %s, which no fence stops: %s", count.Word(len(subscriptions), "a subscription", "subscriptions"), count.Some(subscriptions))
	}
	grantors, err := fencing.Grantors(c.ctx, c.s)
	if err != nil {
		return err
	}
	if len(grantors) > 0 {
		c.warn("connect-grants", "The fence then makes the database read-only, which BEGIN READ WRITE passes. To have connections refused, let the owner of the database grant CONNECT instead.",
			"the fence will not refuse connections to the source, because other roles than its owner have granted CONNECT: %s", count.Some(grantors))
	}
	returning, err := fencing.Returning(c.ctx, c.s)
	if err != nil {
		return err
	}
	if len(returning) > 0 {
		c.warn("returning-sessions", fencing.ReturningHint, "%s: %s", fencing.ReturningText, fencing.Describe(returning))
	}
	lasting, err := fencing.Lasting(c.ctx, c.s, c.trust)
	if err != nil {
		return err
	}
	if len(lasting) > 0 {
		c.fail("lasting-sessions", fencing.End(lasting), "only a superuser may end these sessions on the source, so that the fence would not hold: %s", fencing.Describe(lasting))
	}
	return nil
}

// closedBefore looks for what has closed the source before its fence does.
func (c *checker) closedBefore() error {
	f, isClosed, err := slot.GetFence(c.ctx, c.s)
	switch {
	case err != nil:
		return err
	case f != nil && c.m.Slot != "" && f.Slot != c.m.Slot:
		e := (&session.Session{Migration: c.m}).Anothers(f)
		c.fail("source-fenced", e.Hint, "%v", e)
	case f == nil && isClosed:
		c.warn("source-read-only", fencing.FrozenHint, "%s", fencing.FrozenText)
	}
	return nil
}
