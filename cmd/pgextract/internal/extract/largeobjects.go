package extract

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/copyout"
	"github.com/pgsluice/pgsluice/format"
)

const (
	// lobChunk is how much of a large object goes into one record.
	lobChunk = 256 << 10
	// lobGroup is how many large objects share one record for owners, rights and comments: there
	// may be millions of them.
	lobGroup = 500
)

// largeObjectDDL writes the owners, rights and comments of large objects, which belong to the data,
// like the objects themselves.
func (l *Load) largeObjectDDL(ctx context.Context, c *pgx.Conn, write func(*format.DDL) error) error {
	var first, last uint32
	n := 0
	group := map[string][]string{}
	flush := func() error {
		name := fmt.Sprintf("LARGE OBJECT %d", first)
		if n > 1 {
			name = fmt.Sprintf("LARGE OBJECTS %d to %d", first, last)
		}
		for _, kind := range []string{"OWNER", "ACL", "COMMENT"} {
			if len(group[kind]) > 0 {
				if err := write(&format.DDL{Section: format.PostData, Type: kind, Name: name,
					SQL: strings.Join(group[kind], "\n")}); err != nil {
					return err
				}
			}
		}
		clear(group)
		n = 0
		return nil
	}
	err := catalog.EachLargeObject(ctx, c, func(o *catalog.LargeObject) error {
		if n == 0 {
			first = o.OID
		}
		n++
		last = o.OID
		name := fmt.Sprintf("LARGE OBJECT %d", o.OID)
		if !l.NoOwner {
			group["OWNER"] = append(group["OWNER"], "ALTER "+name+" OWNER TO "+quote(o.Owner)+";")
		}
		if o.Restricted && !l.NoACL {
			group["ACL"] = append(group["ACL"], lobRights(name, o))
		}
		if o.Comment != "" {
			group["COMMENT"] = append(group["COMMENT"], "COMMENT ON "+name+" IS "+progress.Literal(o.Comment)+";")
		}
		if n == lobGroup {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return l.Server.Explain(err)
}

// lobRights returns the statements that give an object exactly the rights that it has on the
// source.
func lobRights(name string, o *catalog.LargeObject) string {
	sql := []string{"REVOKE ALL ON " + name + " FROM PUBLIC;", "REVOKE ALL ON " + name + " FROM " + quote(o.Owner) + ";"}
	for _, r := range o.Rights {
		grant := "GRANT " + r.Privilege + " ON " + name + " TO "
		if r.Grantee == "" {
			grant += "PUBLIC"
		} else {
			grant += quote(r.Grantee)
		}
		if r.Grantable {
			grant += " WITH GRANT OPTION"
		}
		grant += ";"
		if r.Grantor != o.Owner {
			grant = "SET SESSION AUTHORIZATION " + quote(r.Grantor) + "; " + grant + " RESET SESSION AUTHORIZATION;"
		}
		sql = append(sql, grant)
	}
	return strings.Join(sql, " ")
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// largeObjects writes the large objects as of a snapshot: first the beginning of each, then the
// rest of those that are longer.
func (l *Load) largeObjects(ctx context.Context, snapshot string, out *copyout.Output) (count, bytes uint64, err error) {
	c, err := l.Server.Connect(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+
		progress.Literal(snapshot)); err != nil {
		return 0, 0, slot.Ended(l.Server.Explain(err))
	}
	var long []uint32
	rows, err := c.Query(ctx, "SELECT oid, pg_catalog.lo_get(oid, 0, $1) FROM pg_catalog.pg_largeobject_metadata ORDER BY oid", lobChunk)
	if err != nil {
		return 0, 0, l.Server.Explain(err)
	}
	var o format.LargeObject
	_, err = pgx.ForEachRow(rows, []any{&o.OID, &o.Data}, func() error {
		if len(o.Data) == lobChunk {
			long = append(long, o.OID)
		}
		count++
		bytes += uint64(len(o.Data))
		if err := copyout.Wait(ctx, l.Rate, len(o.Data)); err != nil {
			return err
		}
		return out.Write(&o)
	})
	if err != nil {
		return 0, 0, l.lobError(err)
	}
	for _, oid := range long {
		for offset := int64(lobChunk); ; {
			var data []byte
			if err := c.QueryRow(ctx, "SELECT pg_catalog.lo_get($1, $2, $3)", oid, offset, lobChunk).Scan(&data); err != nil {
				return 0, 0, l.lobError(err)
			}
			if len(data) == 0 {
				break
			}
			if err := copyout.Wait(ctx, l.Rate, len(data)); err != nil {
				return 0, 0, err
			}
			if err := out.Write(&format.LargeObject{OID: oid, Offset: uint64(offset), Data: data}); err != nil {
				return 0, 0, err
			}
			bytes += uint64(len(data))
			offset += int64(len(data))
			if len(data) < lobChunk {
				break
			}
		}
	}
	return count, bytes, nil
}

func (l *Load) lobError(err error) error {
	return fmt.Errorf("read large objects: %w", l.Server.Explain(err))
}
