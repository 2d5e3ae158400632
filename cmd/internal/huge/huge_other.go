//go:build !linux

package huge

func alloc(n int) []byte { return make([]byte, n) }

func free([]byte) {}
