package waiting

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A Holder holds what others wait for: it is a session, or a prepared transaction, which has no
// session.
type Holder struct {
	PID         int32  // 0: a prepared transaction
	GID         string // of the prepared transaction
	Role        string // empty: none, or hidden
	Application string
	Database    string
	State       string        // of the session, with its own wait event
	Open        time.Duration // age of its transaction
	Hidden      bool          // the role may not see state and age
}

// String describes the holder.
func (h *Holder) String() string {
	var facts []string
	add := func(label, s string) {
		if s != "" {
			facts = append(facts, label+s)
		}
	}
	if h.PID == 0 {
		if h.GID == "" {
			return "a prepared transaction"
		}
		add("owner ", h.Role)
		add("database ", h.Database)
		add("prepared ", age(h.Open)+" ago")
		return fmt.Sprintf("prepared transaction %s (%s)", text.Literal(h.GID), strings.Join(facts, ", "))
	}
	add("role ", h.Role)
	add("application ", h.Application)
	add("database ", h.Database)
	add("", h.State)
	if h.Open > 0 {
		add("open for ", age(h.Open))
	}
	if h.Hidden {
		add("", "the rest is hidden")
	}
	if len(facts) == 0 {
		return fmt.Sprintf("process %d", h.PID)
	}
	return fmt.Sprintf("process %d (%s)", h.PID, strings.Join(facts, ", "))
}

// Remedy returns the statement that ends the holder.
func (h *Holder) Remedy() string {
	switch {
	case h.PID == 0 && h.GID == "":
		return "SELECT * FROM pg_catalog.pg_prepared_xacts;"
	case h.PID == 0:
		return fmt.Sprintf("in database %s, COMMIT PREPARED %s; or ROLLBACK PREPARED %[2]s;", h.Database, text.Literal(h.GID))
	}
	return fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(%d);", h.PID)
}

func age(d time.Duration) string { return d.Round(time.Second).String() }

// Some describes the first few holders and counts the rest.
func Some(list []Holder) string {
	const most = 5
	var names []string
	for i := range list[:min(len(list), most)] {
		names = append(names, list[i].String())
	}
	s := strings.Join(names, "; ")
	if n := len(list) - most; n > 0 {
		s += fmt.Sprintf("; and %d more", n)
	}
	return s
}

// hint says how to end the holders, and which privilege the role lacks to see their details.
func hint(list []Holder, side, role string, version int) string {
	const most = 5
	var remedies []string
	hidden := false
	for i := range list {
		hidden = hidden || list[i].Hidden
		if i < most {
			remedies = append(remedies, list[i].Remedy())
		}
	}
	s := fmt.Sprintf("Wait, or end the other transaction on the %s: %s", side, strings.Join(remedies, " "))
	if all := old.SeesAll(version); hidden && all != "" {
		s += fmt.Sprintf(" To see the hidden details: GRANT %s TO %s;", all, text.Ident(role))
	}
	return s
}

// sessions are the columns of a Holder that is a session a of pg_stat_activity.
const sessions = `a.pid, '', coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.datname, ''),
	pg_catalog.concat(a.state, CASE WHEN a.state = 'active' AND a.wait_event_type IN ('Lock', 'IPC') THEN ', waiting for ' || a.wait_event END),
	coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::pg_catalog.float8, a.backend_type IS NULL`

func scan(row pgx.CollectableRow) (h Holder, err error) {
	var seconds float64
	err = row.Scan(&h.PID, &h.GID, &h.Role, &h.Application, &h.Database, &h.State, &seconds, &h.Hidden)
	h.Open = time.Duration(seconds * float64(time.Second))
	return h, err
}

// Writers returns the writing transactions of all databases of the server, the oldest first, and
// those whose age is hidden last. It reads pg_locks, which hides nothing from any role.
func Writers(ctx context.Context, c *pgx.Conn) ([]Holder, error) {
	rows, err := c.Query(ctx, `SELECT 0, p.gid, p.owner::pg_catalog.text, '', p.database::pg_catalog.text, '', extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::pg_catalog.float8 AS open, false AS hidden
			FROM pg_catalog.pg_prepared_xacts p
		UNION ALL SELECT `+sessions+` FROM pg_catalog.pg_stat_activity a
			WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.pid IN (SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted)
		ORDER BY hidden, open DESC`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// holders returns the sessions of these processes.
func holders(ctx context.Context, c *pgx.Conn, pids []int32) ([]Holder, error) {
	rows, err := c.Query(ctx, "SELECT "+sessions+" FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY ($1) ORDER BY a.pid", pids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// preparedBefore returns the prepared transactions that block a process. They have no PID in
// pg_locks: each is identified by the lock on its own xid.
func preparedBefore(ctx context.Context, c *pgx.Conn, pid int32) ([]Holder, error) {
	rows, err := c.Query(ctx, `SELECT 0, p.gid, p.owner::pg_catalog.text, '', p.database::pg_catalog.text, '', extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::pg_catalog.float8, false
		FROM pg_catalog.pg_prepared_xacts p WHERE EXISTS (SELECT FROM pg_catalog.pg_locks w
			JOIN pg_catalog.pg_locks h ON h.pid IS NULL AND h.granted AND (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid, h.classid, h.objid, h.objsubid)
				IS NOT DISTINCT FROM (w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid, w.transactionid, w.classid, w.objid, w.objsubid)
			JOIN pg_catalog.pg_locks x ON x.pid IS NULL AND x.virtualtransaction = h.virtualtransaction AND x.locktype = 'transactionid' AND x.transactionid = p.transaction
			WHERE w.pid = $1 AND NOT w.granted) ORDER BY p.prepared`, pid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}
