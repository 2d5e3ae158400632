package check

import (
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// transactions looks for transactions that delay the creation of a slot: it waits for a moment at
// which no transaction of the server that has written is still open.
func (c *checker) transactions() error {
	const long = time.Minute
	writers, err := waiting.Writers(c.ctx, c.s)
	if err != nil {
		return err
	}
	var prepared, open, hidden []waiting.Holder
	for _, w := range writers {
		switch {
		case w.PID == 0:
			prepared = append(prepared, w)
		case w.Hidden:
			hidden = append(hidden, w)
		case w.Open >= long:
			open = append(open, w)
		}
	}
	if len(open) > 0 {
		c.warn("long-transactions", "End them, or wait: creating the slot waits for all transactions that have written.",
			"long transactions on the source: %s", waiting.Some(open))
	}
	if len(hidden) > 0 {
		f := c.warn("hidden-transactions", "Creating the slot waits for them if they do not end.",
			"the source's role may not see how long these transactions have been open: %s", waiting.Some(hidden))
		if all := old.SeesAll(c.sv); all != "" {
			f.do(c.m.Source.Side, superuser, "GRANT "+all+" TO "+c.sourceUser+";")
		}
	}
	if len(prepared) > 0 {
		remedy := "The creation of the slot waits for them, whatever database they are of. End each:"
		for i := range prepared {
			remedy += " " + prepared[i].Remedy()
		}
		c.need("prepared-transactions", remedy, "prepared transactions on the source: %s", waiting.Some(prepared))
	}
	return nil
}

// standbys checks whether commits on the target wait for a missing standby.
func (c *checker) standbys() error {
	if names, seen := c.setting[target]["synchronous_standby_names"]; seen && names == "" {
		return nil // nothing to wait for
	}
	names, stuck, err := waiting.Commits(c.ctx, c.m.Target)
	if err != nil {
		return err
	}
	if stuck {
		c.fail("standby-missing", waiting.StandbyHint(c.m.Target.Side)+" Load and sync do not wait for it, but the cutover does, and the application would.",
			"commits on the target wait for a standby, but no standby answers (synchronous_standby_names is %q)", names)
	}
	return nil
}
