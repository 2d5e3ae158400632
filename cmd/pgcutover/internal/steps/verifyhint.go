package steps

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// whatNow says what to do about a target that differs. That depends on who is the primary by now: the
// rows are compared behind the opening of the target as well as before it.
func (m *Migration) whatNow(ctx context.Context, t *pgx.Conn) string {
	slot := text.Shell(m.Slot)
	if stream, err := m.stream(ctx, t); err == nil && stream.Ended {
		return "The target is open, and the application may have written to it since. Leave the source closed: it has the rows as they were. " +
			"Correct those that are named above on the target; pgcutover verify --slot " + slot + " compares again, and shows what was written since, too."
	}
	return "Do not let the application use the target. pgcutover unfence --slot " + slot + " gives the source back to it."
}
