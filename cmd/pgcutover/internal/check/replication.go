package check

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
)

// otherSlots selects the slots that nobody reads, with the bytes of WAL that they keep.
const otherSlots = `SELECT slot_name, coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::pg_catalog.int8
	FROM pg_catalog.pg_replication_slots WHERE NOT active AND NOT temporary ORDER BY 1`

// otherSlots looks for forgotten slots: they keep WAL as ours does, on the same disk.
func (c *checker) otherSlots(s, _ [][]string) {
	const much = 1 << 30
	var list []string
	most := int64(0)
	for _, r := range s {
		if r[0] != c.m.Slot && r[0] != c.m.Slot+"_back" {
			kept, _ := strconv.ParseInt(r[1], 10, 64)
			list, most = append(list, r[0]+" (keeps "+humanize.IBytes(uint64(max(kept, 0)))+" of WAL)"), max(most, kept)
		}
	}
	says := "nobody reads " + count.Of(len(list), "slot") + " of the source: " + count.Some(list)
	switch {
	case most >= much:
		c.warn("other-slots", "Ask their owners. What nobody needs: SELECT pg_catalog.pg_drop_replication_slot(…)", "%s", says)
	case len(list) > 0:
		c.note("other-slots", "%s", says)
	}
}

// standbysOf selects the standbys that are connected. Their rows are visible to all roles, their
// states are not.
const standbysOf = `SELECT coalesce(r.application_name, '') FROM pg_catalog.pg_stat_replication r
	WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical') ORDER BY 1`

// standbysOf says what a failover of the source means for the slot.
func (c *checker) standbysOf(s, _ [][]string) {
	switch {
	case len(s) == 0:
	case c.sv >= 170000:
		c.note("source-standbys", "the source has %s: the slot survives a failover only with pgextract --failover", count.Of(len(s), "standby"))
	default:
		c.warn("source-standbys", "Do not fail over before the cutover. After a failover, load again with a new slot.",
			"the source has %s: a failover loses the slot before version 17", count.Of(len(s), "standby"))
	}
}

// walRate selects how much WAL was written since when.
const walRate = `SELECT wal_bytes::pg_catalog.int8, extract(epoch FROM pg_catalog.clock_timestamp() - stats_reset)::pg_catalog.int8 FROM pg_catalog.pg_stat_wal`

// walRate says how much disk a stopped sync fills, and how long the slot's limit lasts.
func (c *checker) walRate(s, _ [][]string) {
	if len(s) == 0 {
		return
	}
	written, _ := strconv.ParseInt(s[0][0], 10, 64)
	seconds, _ := strconv.ParseInt(s[0][1], 10, 64)
	hour := written * 3600 / max(seconds, 1)
	c.ok("wal-rate", "the source has written %s of WAL in %s: its disk must hold what it writes while sync is interrupted",
		humanize.Bytes(uint64(max(written, 0))), span(float64(seconds)))
	const day = 24
	if limit := c.number(source, "max_slot_wal_keep_size") << 20; limit > 0 && hour > 0 && limit/hour < day {
		c.warn("slot-wal-time", "Raise max_slot_wal_keep_size."+c.where(source), "at that rate the source drops the slot after %v without sync",
			(time.Duration(limit)*time.Hour/time.Duration(hour)).Round(time.Minute)).
			do(c.m.Source.Side, superuser, c.reload(source, "max_slot_wal_keep_size", "-1")...)
	}
}

// publications selects those that are not ours.
const publications = `SELECT pubname FROM pg_catalog.pg_publication ORDER BY 1`

// publications says that those of others come along.
func (c *checker) publications(s, _ [][]string) {
	list := slices.DeleteFunc(column(s, 0), func(name string) bool {
		return c.m.Slot != "" && (name == c.m.Slot || strings.HasPrefix(name, c.m.Slot+"_"))
	})
	if len(list) > 0 {
		c.note("other-publications", "publications are created on the target as well, but their subscribers go on to read from the source: %s", count.Some(list))
	}
}

// timeout looks for a limit that ends the session of pgdecode while the target is busy.
func (c *checker) timeout() {
	const short = 10_000 // ms
	if ms := c.number(source, "wal_sender_timeout"); ms > 0 && ms < short {
		c.warn("wal-sender-timeout", "Set it to 60s."+c.where(source), "the source ends a replication session that is silent for %d ms (wal_sender_timeout)", ms).
			do(c.m.Source.Side, superuser, c.reload(source, "wal_sender_timeout", "60s")...)
	}
}
