package lines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// A Source looks tables up in a session of its own, because the replication session is busy.
type Source struct {
	Server       pgdial.Server
	Slot         string
	Publications []string

	ctx    context.Context
	conn   *pgx.Conn // nil between two looks
	before string    // all transactions before this one had ended before everything in the slot
}

// Open notes how old the slot is, before any change is read.
func (s *Source) Open(ctx context.Context) (err error) {
	s.ctx, s.Server.Sessions = ctx, new(pgdial.Sessions)
	return s.look(func() error {
		return s.conn.QueryRow(ctx, "SELECT catalog_xmin::pg_catalog.text FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", s.Slot).Scan(&s.before)
	})
}

// look has a function ask in the session. A fence ends the session between two looks, when it ends
// all others: then another one asks.
//
// The session of a superuser ends at once: a cutover with less rights could neither end it nor know
// that it is ours.
func (s *Source) look(ask func() error) (err error) {
	for again := s.conn != nil; ; again = false {
		if s.conn == nil {
			if s.conn, err = s.Server.Connect(s.ctx); err != nil {
				return err
			}
		}
		err = ask()
		if s.conn.IsClosed() || s.conn.PgConn().ParameterStatus("is_superuser") == "on" {
			s.Close()
		}
		if !again || !pgdial.Lost(err) {
			return s.Server.Explain(err)
		}
	}
}

// Close ends the session.
func (s *Source) Close() {
	if s.conn != nil {
		_ = s.conn.Close(context.WithoutCancel(s.ctx))
		s.conn = nil
	}
}

// members is a query for what the publications carry of each table.
func members(version int) string {
	truncate := "false"
	if version >= 110000 {
		truncate = "p.pubtruncate"
	}
	return `SELECT g.relid, pg_catalog.bool_or(p.pubinsert) AS i, pg_catalog.bool_or(p.pubupdate) AS u, pg_catalog.bool_or(p.pubdelete) AS d, pg_catalog.bool_or(` + truncate + `) AS t
		FROM pg_catalog.pg_publication p, LATERAL pg_catalog.pg_get_publication_tables(p.pubname::pg_catalog.text) g WHERE p.pubname = ANY ($1::pg_catalog.text[]) GROUP BY g.relid`
}

// young is an expression for a list without the transactions that are older than the slot. One that
// is so old that its ID is used anew seems to be in the future.
func young(xids string) string {
	return `ARRAY(SELECT x::pg_catalog.text FROM (VALUES ` + xids + `) v(x) WHERE pg_catalog.age(x) BETWEEN 0 AND pg_catalog.age($2::pg_catalog.text::pg_catalog.xid))`
}

func statement(version int) string {
	generated, key := "false", "indnatts"
	if version >= 110000 {
		key = "indnkeyatts"
	}
	if version >= 120000 {
		generated = "a.attgenerated <> ''"
	}
	// As the server's function RelationGetReplicaIndex finds the index.
	return `WITH member AS (` + members(version) + `)
	SELECT pg_catalog.json_build_object('ID', c.oid::bigint, 'Schema', n.nspname, 'Name', c.relname, 'ReplicaIdentity', c.relreplident::pg_catalog.text,
		'Insert', coalesce(m.i, false), 'Update', coalesce(m.u, false), 'Delete', coalesce(m.d, false), 'Truncate', coalesce(m.t, false),
		'Sign', pg_catalog.concat_ws('/', c.oid, c.relreplident, y.xmin, k.indexrelid, k.xmin),
		'Young', ` + young("(y.xmin), (k.xmin)") + `,
		'Columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('Name', a.attname, 'OID', a.atttypid::bigint, 'TypeMod', a.atttypmod, 'Type', pg_catalog.format_type(a.atttypid, -1),
			'Printed', pg_catalog.format_type(a.atttypid, NULL), 'Generated', ` + generated + `,
			'Key', c.relreplident = 'f' OR k.indexrelid IS NOT NULL AND a.attnum = ANY ((k.indkey::pg_catalog.int2[])[0:k.` + key + ` - 1])) ORDER BY a.attnum)
			FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))::pg_catalog.text
	FROM ROWS FROM (pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.text[])) v(s, t) JOIN pg_catalog.pg_namespace n ON n.nspname = v.s JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.t
	JOIN pg_catalog.pg_type y ON y.oid = c.reltype
	LEFT JOIN LATERAL (SELECT i.xmin, i.* FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
		AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END LIMIT 1) k ON true
	LEFT JOIN member m ON m.relid = c.oid WHERE c.relkind IN ('r', 'p')`
}

// Charset returns what converts the text of the database's encoding, or nil if it needs no
// conversion.
func (s *Source) Charset() (c *Charset, err error) {
	err = s.look(func() error {
		encoding := s.conn.PgConn().ParameterStatus("server_encoding")
		if encoding == "UTF8" || encoding == "SQL_ASCII" {
			return nil
		}
		c = &Charset{encoding: encoding, ask: func(list [][]byte) ([]string, error) { return s.convert(encoding, list) }, known: make(map[string]string)}
		var bytes int
		err := s.conn.QueryRow(s.ctx, "SELECT pg_catalog.pg_encoding_max_length(pg_catalog.pg_char_to_encoding($1::pg_catalog.text::pg_catalog.name))", encoding).Scan(&bytes)
		c.wide = bytes > 1
		return err
	})
	return c, err
}

// convert returns characters of an encoding in UTF-8.
func (s *Source) convert(encoding string, characters [][]byte) (texts []string, err error) {
	err = s.look(func() error {
		rows, err := s.conn.Query(s.ctx, "SELECT pg_catalog.convert_from(x, $2::pg_catalog.text::pg_catalog.name) FROM pg_catalog.unnest($1::pg_catalog.bytea[]) WITH ORDINALITY AS c (x, n) ORDER BY n", characters, encoding)
		if err != nil {
			return err
		}
		texts, err = pgx.CollectRows(rows, pgx.RowTo[string])
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code[:2] == "22" {
			return fmt.Errorf("%w: %s", errByte, pg.Message)
		}
		return err
	})
	return texts, err
}

// Tables implements Catalog.
func (s *Source) Tables(names [][2]string) (found map[[2]string]*Table, until format.LSN, err error) {
	schemas, tables := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		schemas[i], tables[i] = n[0], n[1]
	}
	err = s.look(func() (err error) {
		found = make(map[[2]string]*Table)
		if until, err = slot.FlushLSN(s.ctx, s.conn); err != nil {
			return err
		}
		rows, err := s.conn.Query(s.ctx, statement(pgdial.Version(s.conn.PgConn())), s.Publications, s.before, schemas, tables)
		if err != nil {
			return err
		}
		var text string
		_, err = pgx.ForEachRow(rows, []any{&text}, func() error {
			t, err := parse(text)
			if t != nil {
				found[[2]string{t.Schema, t.Name}] = t
			}
			return err
		})
		return err
	})
	return found, until, err
}

// parse parses a row of the statement. It returns nil for a table that nobody has asked for.
func parse(text string) (*Table, error) {
	var x struct {
		Table
		Young []string
	}
	if err := json.Unmarshal([]byte(text), &x); err != nil {
		return nil, err
	}
	t := x.Table
	if !utf8.ValidString(text) { // JSON cannot have it: the names here are not those asked for
		if t.Insert || t.Update || t.Delete || t.Truncate {
			return nil, fault.New(fault.Config, "table %s.%s, or a column or type of it, has a name that is not UTF-8", t.Schema, t.Name).
				WithDetail("The source's database has the encoding SQL_ASCII, and its slot the plugin test_decoding.").
				WithHint("Rename it, or create the slot with pgoutput.")
		}
		return nil, nil
	}
	var err error
	t.Young, err = xids(x.Young)
	return &t, err
}

func xids(list []string) (out []uint32, err error) {
	err = json.Unmarshal([]byte("["+strings.Join(list, ",")+"]"), &out)
	return out, err
}

// Renamed implements Catalog.
func (s *Source) Renamed() (list []uint32, err error) {
	err = s.look(func() error {
		rows, err := s.conn.Query(s.ctx, `WITH member AS (`+members(pgdial.Version(s.conn.PgConn()))+`)
			SELECT pg_catalog.unnest(`+young("(y.xmin)")+`) FROM member m JOIN pg_catalog.pg_class c ON c.oid = m.relid JOIN pg_catalog.pg_type y ON y.oid = c.reltype`, s.Publications, s.before)
		if err != nil {
			return err
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		list, err = xids(texts)
		return err
	})
	return list, err
}

// Recorder implements Catalog.
func (s *Source) Recorder(oid uint32) (is bool, err error) {
	err = s.look(func() error {
		r, err := slot.GetRecorder(s.ctx, s.conn)
		if err != nil {
			return err
		}
		is = r.Trusted() && r.OID == oid
		return r.Err()
	})
	return is, err
}
