package check

import (
	"encoding/json"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

func (c *checker) wal() error {
	level, logical, err := slot.WALLevel(c.ctx, c.s)
	switch {
	case err != nil:
		return err
	case !logical:
		f := c.fail("wal-level", decoding[c.service[source]], "wal_level is %s on the source", level)
		if c.service[source] == "plain" {
			f.do("source", superuser, "ALTER SYSTEM SET wal_level = logical;")
		}
	case level != "logical":
		c.ok("wal-level", "wal_level is %s, which the server raises by itself while there are logical slots", level)
	default:
		c.ok("wal-level", "wal_level is logical")
	}
	if err := c.shares(); err != nil {
		return err
	}
	c.timeout()
	if err := c.outputPlugin(); err != nil {
		return err
	}
	if c.sv >= 130000 {
		keep, err := c.value(c.s, "SELECT pg_catalog.current_setting('max_slot_wal_keep_size')")
		if err != nil {
			return err
		}
		if keep != "-1" {
			c.warn("slot-wal-limit", "Raise it, or make sure that sync is never interrupted for long.",
				"the source drops a slot that holds back more than %s of WAL (max_slot_wal_keep_size)", keep)
		}
	}
	if c.sv >= 180000 {
		idle, err := c.value(c.s, "SELECT pg_catalog.current_setting('idle_replication_slot_timeout')")
		if err != nil {
			return err
		}
		if idle != "0" {
			c.warn("slot-idle-timeout", "Set it to 0, or make sure that sync is never interrupted for that long.",
				"the source drops a slot that nobody has read for %s (idle_replication_slot_timeout)", idle)
		}
	}
	return nil
}

// shares looks for what all migrations from the server compete for.
func (c *checker) shares() error {
	server, err := c.server()
	if err != nil {
		return err
	}
	for _, x := range []struct{ id, setting, used string }{
		{"replication-slots", "max_replication_slots", "SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots"},
		{"wal-senders", "max_wal_senders", "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication"},
	} {
		free, err := c.value(c.s, "SELECT pg_catalog.current_setting('"+x.setting+"')::int - ("+x.used+")")
		if err != nil {
			return err
		}
		shared := &share{Server: server, Free: json.Number(free)}
		if !c.begun {
			shared.Needs = 1
		}
		if free == "0" || strings.HasPrefix(free, "-") {
			c.need(x.id, "Raise "+x.setting+" and restart the source, or drop what is no longer used."+c.where(source),
				"all of the source's %s are taken", x.setting).Shared = shared
		} else {
			c.add(x.id, fine, "", "%s: %s free", x.setting, free).Shared = shared
		}
		if free == "1" && !c.begun {
			c.warn("slot-to-resume", "Raise "+x.setting+" and restart the source."+c.where(source),
				"only one of the source's %s is free: to resume an interrupted load takes one more", x.setting)
		}
	}
	return nil
}

// server returns what is the same for two databases only if they are on one server, by whatever
// address. Copies of a server share its system identifier, but were not started in the same
// microsecond.
func (c *checker) server() (string, error) {
	id, err := identity.System(c.ctx, c.s)
	if err != nil {
		return "", err
	}
	started, err := c.value(c.s, "SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time())")
	return id + "/" + started, err
}
