package format_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Streams that earlier releases wrote must be read for ever, and mean what they meant. The files
// are never rewritten: when this test fails, the package is wrong.
func TestCompatibility(t *testing.T) {
	files, err := filepath.Glob("testdata/v1/*.pgs")
	must(t, err)
	if len(files) < 2 {
		t.Fatalf("only %d frozen streams", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			must(t, err)
			text, err := os.ReadFile(strings.TrimSuffix(file, ".pgs") + ".txt")
			must(t, err)
			recs, err := readBytes(b)
			must(t, err)
			var got strings.Builder
			for _, rec := range recs {
				got.WriteString(formatRecord(rec) + "\n")
			}
			if got.String() != string(text) {
				t.Errorf("reads as\n%s", got.String())
			}
			// A writer of version 1.0 makes the same bytes of them; a later minor version may not.
			if !bytes.Equal(write(t, recs...), b) {
				t.Error("the records are written in another way")
			}
		})
	}
}
