package slot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A Binding ties a slot to its migration's token, a random string made together with the slot, and
// to the one target that it is acknowledged for. A slot cannot store it, and a table would need
// rights. So it is kept in the comment of the slot's publication, where every role can read it and
// the publication's owner can write it: one line for each slot, after the comment's other text.
//
//	pgsluice slot=mig token=XVBHQ6… target=4ZK2…
type Binding struct {
	Token  string // empty: pgextract did not create the slot
	Target string // empty: nothing has been acknowledged yet
}

const bindingMark = "pgsluice slot="

// NewToken makes a token.
func NewToken() string { return rand.Text() }

func (b Binding) line(slot string) string {
	s := bindingMark + slot
	if b.Token != "" {
		s += " token=" + b.Token
	}
	if b.Target != "" {
		s += " target=" + b.Target
	}
	return s
}

// bindingIn finds a slot's binding in a comment.
func bindingIn(comment, slot string) (b Binding, found bool) {
	for line := range strings.Lines(comment) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0]+" "+f[1] != bindingMark+slot {
			continue
		}
		for _, x := range f[2:] {
			switch key, value, _ := strings.Cut(x, "="); key {
			case "token":
				b.Token = value
			case "target":
				b.Target = value
			}
		}
		return b, true
	}
	return Binding{}, false
}

// withBinding returns the comment with a slot's binding replaced.
func withBinding(comment, slot string, b Binding) string {
	var lines []string
	for line := range strings.Lines(comment) {
		if _, ours := bindingIn(line, slot); !ours {
			lines = append(lines, strings.TrimRight(line, "\r\n"))
		}
	}
	if b != (Binding{}) {
		lines = append(lines, b.line(slot))
	}
	return strings.Join(lines, "\n")
}

// GetBinding reads a slot's binding, from the first of its publications that has one.
func GetBinding(ctx context.Context, c *pgx.Conn, slot string, publications []string) (b Binding, err error) {
	comments, err := comments(ctx, c, publications)
	if err != nil {
		return b, err
	}
	for _, p := range publications {
		if b, found := bindingIn(comments[p], slot); found {
			return b, nil
		}
	}
	return b, nil
}

// comments reads the comments of publications.
func comments(ctx context.Context, c *pgx.Conn, publications []string) (map[string]string, error) {
	rows, err := c.Query(ctx, `SELECT pubname, coalesce(pg_catalog.obj_description(oid, 'pg_publication'), '') FROM pg_catalog.pg_publication
		WHERE pubname = ANY($1::pg_catalog.name[])`, publications)
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	var name, comment string
	_, err = pgx.ForEachRow(rows, []any{&name, &comment}, func() error { m[name] = comment; return nil })
	return m, err
}

// Token returns a slot's token, or "" if it has none.
func Token(ctx context.Context, c *pgx.Conn, slot string, publications []string) (string, error) {
	b, err := GetBinding(ctx, c, slot, publications)
	return b.Token, err
}

// SetBinding writes a slot's binding to the first of its publications that the role may comment on,
// even in a fenced database. It reports whether there is such a publication: others may own them
// all.
func SetBinding(ctx context.Context, c *pgx.Conn, slot string, publications []string, b Binding) (set bool, err error) {
	for _, p := range publications {
		// Another session may write its slot's binding to the same comment at the same time, and
		// overwrite ours.
		for range 5 {
			set, err = comment(ctx, c, p, slot, b)
			if err != nil || !set {
				break
			}
			now, err := comments(ctx, c, []string{p})
			if err != nil {
				return false, err
			}
			if have, _ := bindingIn(now[p], slot); have == b {
				return true, nil
			}
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// comment writes a slot's binding to a publication's comment. It returns false if that is
// impossible.
func comment(ctx context.Context, c *pgx.Conn, publication, slot string, b Binding) (bool, error) {
	err := pgx.BeginTxFunc(ctx, c, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		old, err := comments(ctx, c, []string{publication})
		if err != nil {
			return err
		}
		text, there := old[publication]
		if !there {
			return errNoPublication
		}
		// Another session may hold a lock on the publication for any time.
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "COMMENT ON PUBLICATION "+pgx.Identifier{publication}.Sanitize()+" IS "+
			escapeLiteral(withBinding(text, slot, b)))
		return err
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code[:2] {
		case "08", "40", "53", "55", "57": // may succeed later
		default:
			// another role owns it, the server is a standby, or an event trigger objects
			return false, nil
		}
	}
	if errors.Is(err, errNoPublication) {
		return false, nil
	}
	return err == nil, err
}

var errNoPublication = errors.New("no such publication")

// escapeLiteral quotes a string for SQL, whatever standard_conforming_strings is.
func escapeLiteral(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.ContainsAny(s, "\\\n") {
		return " E'" + strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(s) + "'"
	}
	return "'" + s + "'"
}

// Rebind returns the statement that binds a slot to another target, or to none if b.Target is
// empty.
func Rebind(ctx context.Context, c *pgx.Conn, slot string, publications []string, b Binding) (string, error) {
	all, err := comments(ctx, c, publications)
	if err != nil {
		return "", err
	}
	for _, p := range publications {
		if _, found := bindingIn(all[p], slot); found {
			return fmt.Sprintf("COMMENT ON PUBLICATION %s IS %s", pgx.Identifier{p}.Sanitize(),
				strings.TrimSpace(escapeLiteral(withBinding(all[p], slot, b)))), nil
		}
	}
	return "", nil
}
