// Package huge allocates large memory outside the garbage collector's heap, which would hold it two
// or three times before a collection. The memory takes no space until it is written, and returns to
// the system when it is freed.
package huge

// Alloc returns n zero bytes. Pass exactly this slice to Free when the memory is no longer used.
func Alloc(n int) []byte {
	if b := Reserve(n); b != nil {
		return b
	}
	return make([]byte, n)
}

// Reserve is Alloc for far more memory than is likely to be used. It returns nil where the system
// does not let a process reserve unused memory: under strict memory accounting, or a limit on
// address space.
func Reserve(n int) []byte { return reserve(n) }

// Free frees memory from Alloc or Reserve. A later access crashes the process.
func Free(b []byte) {
	if cap(b) > 0 {
		free(b)
	}
}
