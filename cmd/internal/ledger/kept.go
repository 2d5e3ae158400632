package ledger

import (
	"bytes"
	"encoding/gob"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// A kept line is a Line with the key of its object. Names may be in any encoding, so the lines are
// kept as gob, which keeps every byte.
type kept struct {
	Line Line
	Key  inventory.Key
}

// Pack encodes lines, so that Unpack returns the same lines.
func Pack(lines []Line) ([]byte, error) {
	list := make([]kept, len(lines))
	for i, l := range lines {
		list[i] = kept{l, l.key}
	}
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(list)
	return b.Bytes(), err
}

// Unpack decodes lines.
func Unpack(b []byte) ([]Line, error) {
	var list []kept
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&list); err != nil {
		return nil, err
	}
	lines := make([]Line, len(list))
	for i, k := range list {
		lines[i] = k.Line
		if lines[i].key = k.Key; k.Line.SQL == nil { // gob does not keep the difference
			lines[i].SQL = []string{}
		}
	}
	return lines, nil
}
