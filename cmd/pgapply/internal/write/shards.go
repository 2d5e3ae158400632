package write

import (
	"context"
	"fmt"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// shards adds what is different for a table that a Citus cluster keeps in shards.
func (m *Mapper) shards(ctx context.Context, t *plan.Table) error {
	if m.Citus == nil {
		return nil
	}
	t.Deferrable = nil // the server itself enforces them
	c, err := citus.Get(ctx, m.Citus, t.OID)
	if err != nil || c == nil {
		return err
	}
	t.Join = citus.Join(t.Place())
	for i := range t.Columns {
		if t.Columns[i].Name == c.Column {
			t.Columns[i].Fixed, t.Columns[i].Home = true, true
		}
	}
	return m.inBulk(ctx, t)
}

// inBulk decides, once for a table, whether Citus can plan the statements that write many rows.
// Otherwise changes are written one by one.
func (m *Mapper) inBulk(ctx context.Context, t *plan.Table) error {
	type statement struct {
		sql     string
		arrays  int
		counted bool
	}
	var list []statement
	if t.Foldable {
		list = append(list, statement{t.BulkDelete(), len(t.Key), true}, statement{t.BulkUpdate(""), len(t.UpdateColumns("")), true})
	}
	if !t.NoBulk {
		list = append(list, statement{t.BulkInsert(), len(t.InsertColumns()), false})
	}
	for _, s := range list {
		params := make([][]byte, s.arrays, s.arrays+1)
		for i := range params {
			params[i] = []byte("{}")
		}
		if s.counted {
			params = append(params, []byte("0"))
		}
		refused, err := citus.Plans(ctx, m.Citus, s.sql, params)
		if err != nil {
			return err
		}
		if refused != nil {
			m.Log.Info(fmt.Sprintf("changes of table %v are written one by one: %s", t, refused.Message))
			t.Foldable, t.NoBulk = false, true
			return nil
		}
	}
	return nil
}
