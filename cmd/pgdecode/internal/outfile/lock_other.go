//go:build !unix

package outfile

import "os"

// lock does nothing on other systems. There, only the slot keeps other processes away: one process
// can read it.
func lock(*os.File) error { return nil }
