package apply

import (
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// incomplete has the loads that lack rows on the target although their streams have ended.
type incomplete map[progress.Key]*lacking

type lacking struct {
	slot   string
	parts  uint64          // number of streams of the load
	seen   map[uint64]bool // parts that were in this input
	tables []string        // incomplete tables of the newest stream
}

// ended records the tables that a stream of a load describes and that lack rows.
func (i incomplete) ended(h *format.Header, complete bool, tables []string) {
	key := progress.KeyOf(h)
	if complete {
		delete(i, key)
		return
	}
	part, parts := uint64(1), uint64(1)
	if h.Load != nil && h.Load.Parts > 0 {
		part, parts = h.Load.Part, h.Load.Parts
	}
	l := i[key]
	if l == nil || l.parts != parts {
		l = &lacking{parts: parts, seen: make(map[uint64]bool)}
		i[key] = l
	}
	l.slot, l.tables, l.seen[part] = h.Slot, tables, true
}

// check returns an error if a load is incomplete and no further stream can complete it.
func (i incomplete) check() error {
	for _, l := range i {
		if uint64(len(l.seen)) < l.parts || len(l.tables) == 0 {
			continue
		}
		slices.Sort(l.tables)
		hint := "Without a slot, extract all tables again, into an empty database."
		if l.slot != "" {
			hint = "Load the missing parts: pgextract --slot " + text.Shell(l.slot) + " --resume | pgapply."
		}
		return fault.New(fault.Data, "the stream of the load ended without parts of %s: %s",
			count.Of(len(l.tables), "table"), strings.Join(l.tables, ", ")).
			WithDetail("The parts that the stream has were loaded.").
			WithHint("%s A filter that drops a table must also drop its relation record.", hint)
	}
	return nil
}
