package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is the most that an unprivileged process may request. With the default of 64 KiB, the
// two ends of a pipe wake each other sixteen times as often.
const pipeSize = 1 << 20

// widenPipe gives a pipe a larger buffer. It is an optimization: if the system refuses, the pipe
// works unchanged.
func widenPipe(f *os.File) {
	if st, err := f.Stat(); err == nil && st.Mode()&os.ModeNamedPipe != 0 {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	}
}
