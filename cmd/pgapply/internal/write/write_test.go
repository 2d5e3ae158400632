package write

import (
	"bytes"
	"strings"
	"testing"
)

// Every byte, at every place of values of every length, is written as COPY wants it.
func TestCopyText(t *testing.T) {
	t.Parallel()
	escape := strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r", "\t", "\\t")
	for size := 1; size <= 20; size++ {
		for at := range size {
			for c := range 256 {
				for _, filler := range []byte{'a', ' ', 0xff, '['} {
					v := bytes.Repeat([]byte{filler}, size)
					v[at] = byte(c)
					if got, want := string(appendCopyText([]byte("before"), v)), "before"+escape.Replace(string(v)); got != want {
						t.Fatalf("%q becomes %q, not %q", v, got, want)
					}
				}
			}
		}
	}
}
