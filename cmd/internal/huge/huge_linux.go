package huge

import "golang.org/x/sys/unix"

func reserve(n int) []byte {
	// Without MAP_NORESERVE, a small machine may refuse a size that is never written in full.
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	return b
}

// Munmap fails for memory that is not from Mmap. The garbage collector frees such memory.
func free(b []byte) { _ = unix.Munmap(b) }
