// Package huge lends memory for what is too large to be left to the garbage collector, which would
// hold it two or three times before it notices. What it lends takes nothing before it is written
// to, and is the system's again when it is given back.
package huge

// Alloc returns n bytes, all zero. They must be given to Free, as they are, when nobody uses them
// any more.
func Alloc(n int) []byte {
	if b := Reserve(n); b != nil {
		return b
	}
	return make([]byte, n)
}

// Reserve is Alloc for far more than is likely to be used. It returns nil where the system does not
// let a process have what it does not use: with strict accounting of memory, or a limit of address
// space.
func Reserve(n int) []byte { return reserve(n) }

// Free gives back what Alloc has returned. Whoever uses it afterwards is ended by the system.
func Free(b []byte) {
	if cap(b) > 0 {
		free(b)
	}
}
