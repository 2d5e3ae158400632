package fencing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A Client is a session that might write to the source.
type Client struct {
	waiting.Holder
	Idle   bool      // it is in no transaction
	Writes bool      // its transaction has written
	Super  bool      // only a superuser may end it
	Veiled bool      // it is hidden, and no right would show it: before version 10
	Began  time.Time // by the server's clock; zero: hidden
}

// selectClients selects the sessions that might write: all that are connected to this database,
// except our own, those that send the WAL to somebody, and autovacuum. Sessions are told apart by
// process number, since a client may give itself any name. What is hidden from us may write.
const selectClients = `SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),
			pg_catalog.concat_ws(', ', nullif(a.backend_type, 'client backend'), a.state || coalesce(' for ' || pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - a.state_change), '')), a.backend_type IS NULL,
			a.backend_type IS NOT NULL AND a.backend_type NOT LIKE 'logical replication%' AND coalesce(a.state, 'idle') = 'idle' AND a.xact_start IS NULL AND a.backend_xid IS NULL, a.backend_xid IS NOT NULL, coalesce(r.rolsuper, true),
			a.backend_type IS NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = 'pg_read_all_stats'), coalesce(a.backend_start, 'epoch')
		FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
		WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_replication s WHERE s.pid = a.pid AND s.state <> 'startup')
		ORDER BY a.pid`

// Clients returns the sessions that might write.
func Clients(ctx context.Context, c *pgx.Conn) (list []Client, err error) {
	var b pgx.Batch
	QueueClients(&b, &list)
	err = c.SendBatch(ctx, &b).Close()
	return list, err
}

// QueueClients is Clients for a batch.
func QueueClients(b *pgx.Batch, list *[]Client) {
	b.Queue(selectClients).Query(func(rows pgx.Rows) (err error) {
		*list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (x Client, err error) {
			err = row.Scan(&x.PID, &x.Role, &x.Application, &x.State, &x.Hidden, &x.Idle, &x.Writes, &x.Super, &x.Veiled, &x.Began)
			if x.Began.Unix() == 0 {
				x.Began = time.Time{}
			}
			return x, err
		})
		return err
	})
}

// Describe describes the first few sessions and counts the rest.
func Describe(list []Client) string {
	holders := make([]waiting.Holder, len(list))
	for i := range list {
		holders[i] = list[i].Holder
	}
	return waiting.Some(holders)
}

// Trusted reports whether the operator vouches for a session: it belongs to a trusted role, and is
// idle as far as any role may see. A role that could see more is refused: RequireRights.
func (x *Client) Trusted(trust []string) bool {
	return (x.Idle || x.Veiled) && slices.Contains(trust, x.Role)
}

// passing is how long a session that we may not end has to last to stand in the way. Monitoring
// comes and goes, and so do pgdecode's own sessions if it runs as superuser.
const passing = time.Second

// Lasting returns the sessions that our role may not end, and that do not end by themselves either.
// Those that our role may not see are left out if it could be allowed to: RequireRights refuses
// such a role.
func Lasting(ctx context.Context, c *pgx.Conn, trust []string) (list []Client, err error) {
	// The server reports this with each change: it is what the server itself will ask.
	if c.PgConn().ParameterStatus("is_superuser") == "on" {
		return nil, nil
	}
	for began := time.Now(); ; {
		now, err := Clients(ctx, c)
		if err != nil {
			return nil, err
		}
		now = slices.DeleteFunc(now, func(x Client) bool { return !x.Super || x.Hidden && !x.Veiled || x.Trusted(trust) })
		if list != nil {
			now = slices.DeleteFunc(now, func(x Client) bool {
				return !slices.ContainsFunc(list, func(y Client) bool { return y.PID == x.PID })
			})
		}
		if list = now; len(list) == 0 || time.Since(began) > passing {
			return list, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// RequireEndable refuses while there are sessions that our role may not end and that nobody vouches
// for.
func RequireEndable(ctx context.Context, s *session.Session, trust []string) error {
	list, err := Lasting(ctx, s.OnSource, trust)
	if err != nil || len(list) == 0 {
		return s.Source.Explain(err)
	}
	return fault.New(fault.Config, "the fence would not hold: only a superuser may end these sessions on the source: %s", Describe(list)).
		WithHint("%s", End(list))
}

// End returns the ways to be rid of sessions that our role may not end.
func End(list []Client) string {
	ways := "End them as superuser:"
	roles := make(map[string]bool)
	for i := range list[:min(len(list), 5)] {
		ways += " " + list[i].Remedy()
		if list[i].Idle || list[i].Veiled {
			roles[list[i].Role] = true
		}
	}
	var trust []string
	for r := range roles {
		trust = append(trust, "--trust "+text.Shell(r))
	}
	slices.Sort(trust)
	if len(trust) > 0 {
		ways += fmt.Sprintf(" If you know that a role does not write, add to check, fence and scripts/cutover: %s. Its idle sessions are then left alone.", strings.Join(trust, " "))
	}
	return ways
}
