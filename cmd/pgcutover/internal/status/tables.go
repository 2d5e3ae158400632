package status

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// findTables adds the tables that do not reach the target completely. It returns what is carried of
// each table.
func (st *Status) findTables(ctx context.Context, s *session.Session) ([]*carried.Table, error) {
	if s.Stream.Ended || s.Stream.Key.Slot == "" { // sync is over, or there is none
		st.Missing, st.Uncarried, st.InsertOnly = []coverage.TableName{}, []coverage.Uncarried{}, []coverage.TableName{}
		return nil, nil
	}
	list, err := coverage.Compare(ctx, s, st.Tables)
	if err == nil {
		st.Missing, st.Uncarried, st.InsertOnly = coverage.Sort(list)
	}
	return list, err
}
