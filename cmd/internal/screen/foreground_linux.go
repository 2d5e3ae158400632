package screen

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// foreground reports whether the process is in the group that has the terminal. A terminal that
// controls no session, or not ours, is nobody's.
func foreground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err != nil || group == syscall.Getpgrp()
}
