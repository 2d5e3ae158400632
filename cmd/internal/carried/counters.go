package carried

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Counters are what the source's statistics have counted of a table, up to transactions that have
// ended. Any role may read them. They arrive late: a session reports them when it is idle or ends,
// at the latest. So they are a lower bound of what has happened, and exact once all sessions have
// ended. They also count what was rolled back.
type Counters struct {
	Inserted, Updated, Deleted int64 // rows
	// The table's file. TRUNCATE, and statements that rewrite the table, replace it. 0 if unknown.
	File uint32
	// Since identifies the statistics. It changes when they are reset, and when they are lost, as
	// after a crash, a failover or an upgrade. It is empty if the server does not count.
	Since string
}

// String returns the form that the load's stream and the target's state have.
func (c Counters) String() string {
	return fmt.Sprintf("%d.%d.%d.%d@%s", c.Inserted, c.Updated, c.Deleted, c.File, cmp.Or(c.Since, "-"))
}

// ParseCounters is the inverse of String. It returns nil for anything else.
func ParseCounters(s string) *Counters {
	var c Counters
	if n, err := fmt.Sscanf(s, "%d.%d.%d.%d@%s", &c.Inserted, &c.Updated, &c.Deleted, &c.File, &c.Since); n != 5 || err != nil {
		return nil
	}
	if c.Since == "-" {
		c.Since = ""
	}
	return &c
}

// The server does not count if track_counts is off for anybody. Since consists of the times at
// which the statistics of the database and those of the archiver began. A reset of one table's
// counters sets the former. A loss of all statistics sets both, and hardly anybody resets the
// latter.
const selectCounters = `SELECT c.oid, pg_catalog.pg_stat_get_tuples_inserted(c.oid), pg_catalog.pg_stat_get_tuples_updated(c.oid), pg_catalog.pg_stat_get_tuples_deleted(c.oid),
	c.relfilenode, CASE WHEN s.counting THEN s.since ELSE '' END
	FROM (SELECT pg_catalog.current_setting('track_counts') = 'on' AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_db_role_setting r, pg_catalog.unnest(r.setconfig) x
			WHERE r.setdatabase IN (0, d.oid) AND x ~* '^track_counts=' AND x !~* '=(on|t|tr|tru|true|y|ye|yes|1)$') AS counting,
		pg_catalog.concat((pg_catalog.date_part('epoch', pg_catalog.pg_stat_get_db_stat_reset_time(d.oid)) * 1000000)::bigint, '/',
			(pg_catalog.date_part('epoch', a.stats_reset) * 1000000)::bigint) AS since
		FROM pg_catalog.pg_database d, pg_catalog.pg_stat_get_archiver() a WHERE d.datname = pg_catalog.current_database()) s,
	pg_catalog.pg_class c WHERE c.oid = ANY ($1::pg_catalog.oid[])`

// Count reads the counters of some tables, by OID.
func Count(ctx context.Context, c *pgx.Conn, oids []uint32) (map[uint32]Counters, error) {
	m := make(map[uint32]Counters, len(oids))
	if len(oids) == 0 {
		return m, nil
	}
	rows, err := c.Query(ctx, selectCounters, oids)
	if err != nil {
		return nil, err
	}
	var oid uint32
	var x Counters
	_, err = pgx.ForEachRow(rows, []any{&oid, &x.Inserted, &x.Updated, &x.Deleted, &x.File, &x.Since}, func() error {
		m[oid] = x
		return nil
	})
	return m, err
}

// IsNew reports whether the statistics of the database have not begun. From 15 on, that looks the
// same as if they were never reset.
func IsNew(counted map[uint32]Counters, version int) bool {
	for _, x := range counted {
		return version < 150000 && strings.HasPrefix(x.Since, "/")
	}
	return false
}

// Uncarried returns the OIDs of the tables of which some changes are carried nowhere: those without
// usable replica identity, and unlogged ones.
func Uncarried(tables []*Table) (oids []uint32) {
	for _, t := range tables {
		if t.Has(NoIdentity, Unlogged) {
			oids = append(oids, t.OID)
		}
	}
	return oids
}

// differ reports whether a table may have changed between two readings of its counters in a way
// that is not carried. told is false if the readings do not tell.
func (t *Table) differ(before, now Counters, version int) (changed, told bool) {
	replaced := before.File != 0 && now.File != before.File
	switch {
	case before.Since == "" || before.Since != now.Since || now.Inserted < before.Inserted ||
		now.Updated < before.Updated || now.Deleted < before.Deleted:
		return false, false
	case now.Updated > before.Updated || now.Deleted > before.Deleted:
		return true, true
	}
	// The WAL has no change at all of an unlogged table.
	return replaced && !decodesTruncate(version) || t.Unlogged && (now.Inserted > before.Inserted || replaced), true
}

// Changes adds a reason to each table of list that may have changed since its load in a way that is
// not carried. list is what Compare has returned for the target. Changes queries the source only if
// there are tables without usable replica identity, or unlogged ones, or if the source does not
// decode TRUNCATE.
func (s *State) Changes(ctx context.Context, c *pgx.Conn, target Target, list []*Table) error {
	var judged []*Table
	for _, t := range list {
		if !t.blocked() && !(target.Loading && (t.loaded == nil || !t.loaded.Complete)) {
			judged = append(judged, t)
		}
	}
	oids := Uncarried(judged)
	now, err := Count(ctx, c, oids)
	denied := IsDenied(err)
	if err != nil && !denied {
		return err
	}
	since := target.since()
	for _, oid := range oids {
		t := s.Table(oid)
		if denied {
			s.uncounted(t, "the role may not read the statistics of the source")
			continue
		}
		s.change(t, target, now[oid], since)
	}
	return s.files(ctx, c, judged)
}

// change judges one table by its counters.
func (s *State) change(t *Table, target Target, now Counters, since string) {
	var before *Counters
	switch l := t.loaded; {
	case l != nil && l.Counted != "":
		before = ParseCounters(l.Counted)
	case l == nil && target.MadeFor || l != nil && l.Recorded:
		before = &Counters{Since: since} // made since the load: all that was counted is later
	}
	switch {
	case now.Since == "":
		s.uncounted(t, "track_counts is off on the source")
		return
	case before == nil || before.Since == "":
		s.uncounted(t, "there are no statistics from before its load")
		return
	}
	switch changed, told := t.differ(*before, now, s.Version); {
	case !told:
		s.uncounted(t, "the source's statistics were reset, or lost in a crash or failover")
	case !changed:
		t.Unchanged = &now
	case !t.Unlogged && now.Updated == before.Updated && now.Deleted == before.Deleted:
		s.truncated(t)
	case t.Unlogged:
		s.changed(t, Changed, "it has changed since it was loaded, and is unlogged: its changes are in no WAL")
	default:
		s.changed(t, Changed, fmt.Sprintf("rows of it were updated or deleted since it was loaded, and without usable replica identity (%s) that is not carried",
			t.Identity.Why(s.Version)))
	}
}

// uncounted adds that a table may have changed, and why that cannot be told.
func (s *State) uncounted(t *Table, why string) {
	if t.Unlogged {
		s.changed(t, Uncounted, "it is unlogged, so that changes since its load are not carried; whether there were any cannot be told: "+why)
		return
	}
	s.changed(t, Uncounted, fmt.Sprintf("without usable replica identity (%s), updates and deletes are not carried; whether there were any since its load cannot be told: %s",
		t.Identity.Why(s.Version), why))
}

func (s *State) changed(t *Table, code Code, detail string) {
	r := Reason{Code: code, Detail: detail}
	name := "ALTER TABLE " + text.Ident(t.Schema, t.Name)
	full := Identity{Setting: "f", Generating: t.Identity.Generating, Imagining: t.Identity.Imagining}
	named, canFull := t.Identity.usable(s.Version, false), full.usable(s.Version, false)
	switch {
	case t.Unlogged && (named || !canFull):
		r.Mend = name + " SET LOGGED;"
	case t.Unlogged:
		r.Mend = name + " SET LOGGED, REPLICA IDENTITY FULL;"
	case canFull:
		r.Mend = name + " REPLICA IDENTITY FULL;"
	}
	t.Reasons = append(t.Reasons, r)
}

// blocked reports whether a table has a reason that stops a cutover.
func (t *Table) blocked() bool {
	for _, r := range t.Reasons {
		if !r.Known() {
			return true
		}
	}
	return false
}

// since returns the statistics that all tables were loaded with, or "" if there is no such. Tables
// that were made later are counted by them from the start.
func (t *Target) since() (since string) {
	for i := range t.Tables {
		c := ParseCounters(t.Tables[i].Counted)
		switch {
		case c == nil || c.Since == "":
		case since != "" && since != c.Since:
			return ""
		default:
			since = c.Since
		}
	}
	return since
}
