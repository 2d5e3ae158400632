package catalog

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// On a very busy server, the statement that takes a time limit off can exceed the limit itself.
// Nothing is wrong then.
func TestUnlimited(t *testing.T) {
	left := 0 // times that the limit is exceeded
	uri := pgtest.Stub{Version: "15.20", Answer: func(sql string) []any {
		if strings.HasPrefix(sql, "SET statement_timeout = 0") && left > 0 {
			left--
			return []any{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "57014", Message: "canceling statement due to statement timeout"}}
		}
		return nil
	}}.Start(t)
	ctx := pgtest.Context(t)
	c, err := pgdial.Server{Side: "source", DSN: uri, App: "test"}.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	left = 3 // the settings of the session have been made
	if err := unlimited(ctx, c); err != nil || left != 0 {
		t.Errorf("%v, %d times left", err, left)
	}
	if left = 100; unlimited(ctx, c) == nil {
		t.Error("the limit is never taken off, and nobody says so")
	}
}
