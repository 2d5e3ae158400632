package screen

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// foreground reports whether the process is in the terminal's foreground process group. It also
// returns true for a terminal that is not the controlling terminal of our session: no other group
// owns it.
func foreground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err != nil || group == syscall.Getpgrp()
}
