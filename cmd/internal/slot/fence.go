package slot

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/identity"
)

// A Fence is the record of a cutover's fence on the source. unfence restores from it exactly what
// was there before, also without the target. It is a line at the end of the database's comment: a
// role that may fence a database may comment on it, in the same transaction, and everybody may read
// it. It outlives the publications, which cleanup drops.
//
//	pgsluice fence {"id":"XVBHQ6…","slot":"mig",…}
//
// It has data and no statements: the owner of the database could write any, and a superuser's
// unfence would execute them.
type Fence struct {
	ID    string    `json:"id"` // random, of each fence anew
	Slot  string    `json:"slot,omitempty"`
	Began time.Time `json:"began"` // before it was closed, by the source's clock
	// Setting is what the database's default_transaction_read_only was before; nil: not set.
	Setting *string `json:"setting,omitempty"`
	// Connect is what the fence has changed of the rights to connect; nil: nothing.
	Connect *Connect `json:"connect,omitempty"`
	// Opened is when the target was opened for writing: the source is no longer the primary.
	Opened *time.Time `json:"opened,omitempty"`
}

// WasClosed reports whether the database was read-only before the fence already, by a setting of
// somebody else.
func (f *Fence) WasClosed() bool {
	if f.Setting == nil {
		return false
	}
	// The server takes any beginning of these words. It has no other values that are false.
	v := strings.ToLower(*f.Setting)
	return v != "" && v != "0" && v != "of" && v != "off" && !strings.HasPrefix("false", v) && !strings.HasPrefix("no", v)
}

// A Connect is what a fence has changed of the right to connect to the database. Roles are named by
// OID; 0 is PUBLIC.
type Connect struct {
	Had   []Grant  `json:"had,omitempty"`   // who had been granted it
	Given []uint32 `json:"given,omitempty"` // whom the fence has granted it
}

// A Grant is the right of a role to connect, perhaps with the option to grant it.
type Grant struct {
	To     uint32 `json:"to"`
	Option bool   `json:"option,omitempty"`
}

const fenceMark = "pgsluice fence "

// fenceIn splits a database's comment into its text and the fence. A line that does not parse is
// text.
func fenceIn(comment string) (text string, f *Fence) {
	var kept []string
	for _, line := range strings.Split(comment, "\n") {
		if data, ours := strings.CutPrefix(line, fenceMark); ours && f == nil {
			x := new(Fence)
			if json.Unmarshal([]byte(data), x) == nil && x.ID != "" {
				f = x
				continue
			}
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n"), f
}

// withFence returns a database's comment with the fence replaced; f may be nil.
func withFence(comment string, f *Fence) (string, error) {
	text, _ := fenceIn(comment)
	if f == nil {
		return text, nil
	}
	data, err := json.Marshal(f)
	if text != "" {
		text += "\n"
	}
	return text + fenceMark + string(data), err
}

// A Database is the connection's database, with the record of its fence.
type Database struct {
	Name    string
	Fence   *Fence // nil: none is recorded
	Closed  bool   // it is read-only for new sessions
	comment string
	now     time.Time // by the server's clock
}

// GetDatabase returns the connection's database.
func GetDatabase(ctx context.Context, c *pgx.Conn) (*Database, error) {
	d := new(Database)
	err := c.QueryRow(ctx, "SELECT d.datname::pg_catalog.text, coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), ''), "+identity.Closed+
		", pg_catalog.clock_timestamp() FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()").Scan(&d.Name, &d.comment, &d.Closed, &d.now)
	_, d.Fence = fenceIn(d.comment)
	return d, err
}

// Record returns the statement that records a fence of the database, or that removes the record if
// f is nil.
func (d *Database) Record(f *Fence) (string, error) {
	text, err := withFence(d.comment, f)
	literal := "NULL"
	if text != "" {
		literal = escapeLiteral(text)
	}
	return "COMMENT ON DATABASE " + pgx.Identifier{d.Name}.Sanitize() + " IS " + literal, err
}

// InForce returns the id of the fence that is in force, or "".
func (d *Database) InForce() string {
	if d.Fence == nil || !d.Closed {
		return ""
	}
	return d.Fence.ID
}

// GetFence returns the record of the connection's database, or nil. isClosed reports whether the
// database is read-only for new sessions.
func GetFence(ctx context.Context, c *pgx.Conn) (f *Fence, isClosed bool, err error) {
	d, err := GetDatabase(ctx, c)
	return d.Fence, d.Closed, err
}

// SetOpened records in the fence's record that the target is open, by the clock of the source. It
// does nothing if there is no record.
func SetOpened(ctx context.Context, c *pgx.Conn) error {
	d, err := GetDatabase(ctx, c)
	if err != nil || d.Fence == nil || d.Fence.Opened != nil {
		return err
	}
	f := *d.Fence
	f.Opened = &d.now
	sql, err := d.Record(&f)
	if err != nil {
		return err
	}
	return ReadWrite(ctx, c, sql)
}

// ReadWrite executes statements in one transaction, in one round trip, also in a fenced database.
func ReadWrite(ctx context.Context, c *pgx.Conn, statements ...string) error {
	_, err := c.PgConn().Exec(ctx, "BEGIN READ WRITE; "+strings.Join(statements, "; ")+"; COMMIT").ReadAll()
	if err != nil && c.PgConn().TxStatus() != 'I' && !c.IsClosed() {
		_, _ = c.Exec(ctx, "ROLLBACK")
	}
	return err
}
