// Package huge lends memory for what is too large to be left to the garbage collector, which would hold it two or three times before it notices. What
// it lends takes nothing before it is written to, and is the system's again when it is given back.
package huge

// Alloc returns n bytes, all zero. They must be given to Free, as they are, when nobody uses them any more.
func Alloc(n int) []byte { return alloc(n) }

// Free gives back what Alloc has returned. Whoever uses it afterwards is ended by the system.
func Free(b []byte) {
	if cap(b) > 0 {
		free(b)
	}
}
