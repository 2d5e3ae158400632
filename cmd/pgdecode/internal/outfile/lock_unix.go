//go:build unix

package outfile

import (
	"os"
	"syscall"
)

// lock keeps other pgdecode processes from opening the file, until it is closed or the process
// exits.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
