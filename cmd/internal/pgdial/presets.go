package pgdial

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Presets returns the values that settings have in a new session of an application: those of the
// server, the database and the role. All sessions of ours pin some of them.
func (s Server) Presets(ctx context.Context, names []string) (map[string]string, error) {
	c, err := s.config()
	if err != nil {
		return nil, err
	}
	params := map[string]string{"application_name": s.App}
	if o := c.RuntimeParams["options"]; o != "" { // some services find the database by it
		params["options"] = o
	}
	c.RuntimeParams = params
	var conn *pgconn.PgConn
	if err := s.login(ctx, &c.Config, func() (err error) { conn, err = pgconn.ConnectConfig(ctx, &c.Config); return err }); err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	// SHOW resolves no names, which somebody else's search path could lead to another place.
	results, err := conn.Exec(ctx, "SHOW "+strings.Join(names, "; SHOW ")).ReadAll()
	if err != nil {
		return nil, s.Explain(err)
	}
	values := make(map[string]string)
	for i, name := range names {
		if i >= len(results) || len(results[i].Rows) != 1 {
			return nil, fmt.Errorf("the %s did not return a row for SHOW %s", s.Side, name)
		}
		values[name] = string(results[i].Rows[0][0])
	}
	return values, nil
}
