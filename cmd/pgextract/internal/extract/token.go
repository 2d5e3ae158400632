package extract

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// A token lets several processes read disjoint parts of one snapshot. It has the snapshot's name
// and LSN, and the sizes that large tables had when the snapshot was taken, so that all processes
// split the tables at the same places. It is written as
//
//	00000003-0000001B-1@16/B374D848.1207:16385=55000,16390=1200
//
// with OIDs and numbers of pages. The snapshot's xmin follows the LSN: changes of the publications
// by this or a later transaction are later than the load. The target keeps the xmin with the loaded
// tables, as part of the snapshot's name. Counters that were read before the snapshot may follow,
// as ";16401=1.0.0.16401@/1700000000000000,…".
type token struct {
	name  string
	lsn   format.LSN
	xmin  uint64
	pages map[uint32]int64
	order []uint32 // of pages, for String

	counted map[uint32]carried.Counters
}

// id identifies the snapshot.
func (t *token) id() string { return fmt.Sprintf("%s@%v.%d", t.name, t.lsn, t.xmin) }

func (t *token) String() string {
	var b strings.Builder
	b.WriteString(t.id())
	for i, oid := range t.order {
		fmt.Fprintf(&b, "%c%d=%d", ":,"[min(i, 1)], oid, t.pages[oid])
	}
	if len(t.counted) > 0 && len(t.order) == 0 {
		b.WriteByte(':')
	}
	// Counters come first: a file alone tells less.
	oids := slices.SortedFunc(maps.Keys(t.counted), func(a, b uint32) int {
		if x, y := t.counted[a].Since == "", t.counted[b].Since == ""; x != y {
			return map[bool]int{true: 1, false: -1}[x]
		}
		return cmp.Compare(a, b)
	})
	for i, oid := range oids {
		if i == mostCounted {
			break
		}
		fmt.Fprintf(&b, "%c%d=%v", ";,"[min(i, 1)], oid, t.counted[oid])
	}
	return b.String()
}

// mostCounted limits the counters in a token, which is one argument of a command.
const mostCounted = 1000

func (t *token) add(oid uint32, pages int64) {
	if t.pages == nil {
		t.pages = make(map[uint32]int64)
	}
	t.pages[oid] = pages
	t.order = append(t.order, oid)
}

func parseToken(s string) (*token, error) {
	bad := fault.New(fault.Usage, "invalid --snapshot %q", s).
		WithHint("Give the whole value that pgextract --hold prints after \"snapshot\".")
	id, tables, _ := strings.Cut(s, ":")
	tables, counted, _ := strings.Cut(tables, ";")
	name, lsn, ok := strings.Cut(id, "@")
	if !ok || name == "" {
		return nil, bad
	}
	t := &token{name: name}
	var err error
	lsn, xmin, _ := strings.Cut(lsn, ".")
	if t.lsn, err = format.ParseLSN(lsn); err != nil {
		return nil, bad
	}
	if t.xmin, err = strconv.ParseUint(xmin, 10, 64); err != nil {
		return nil, bad
	}
	for _, p := range strings.FieldsFunc(tables, func(r rune) bool { return r == ',' }) {
		oid, pages, _ := strings.Cut(p, "=")
		o, err := strconv.ParseUint(oid, 10, 32)
		n, err2 := strconv.ParseInt(pages, 10, 64)
		if err != nil || err2 != nil || n < 0 {
			return nil, bad
		}
		t.add(uint32(o), n)
	}
	for _, p := range strings.FieldsFunc(counted, func(r rune) bool { return r == ',' }) {
		oid, counters, _ := strings.Cut(p, "=")
		o, err := strconv.ParseUint(oid, 10, 32)
		c := carried.ParseCounters(counters)
		if err != nil || c == nil {
			return nil, bad
		}
		if t.counted == nil {
			t.counted = make(map[uint32]carried.Counters)
		}
		t.counted[uint32(o)] = *c
	}
	return t, nil
}

// ParsePart parses "i/n", where 1 ≤ i ≤ n. Its errors have status fault.Usage.
func ParsePart(s string) (part, of int, err error) {
	a, b, _ := strings.Cut(s, "/")
	part, err = strconv.Atoi(a)
	if err == nil {
		of, err = strconv.Atoi(b)
	}
	if err != nil || part < 1 || of < part {
		return 0, 0, fault.New(fault.Usage, "invalid --part %q", s).WithHint("Write --part 1/3, 2/3 and 3/3 for three processes.")
	}
	return part, of, nil
}
