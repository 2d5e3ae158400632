package apply

import (
	"context"

	"github.com/pgsluice/pgsluice/format"
)

func (r *Run) load(ctx context.Context, h *format.Header) (format.Record, error) {
	return nil, nil
}
