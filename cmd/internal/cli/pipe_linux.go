package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is what an unprivileged process may ask for. With the default of 64 KiB the two ends of
// a pipe wake each other sixteen times as often.
const pipeSize = 1 << 20

// widenPipe gives a pipe a larger buffer. It is an optimization: where it is refused, the pipe
// works as it is.
func widenPipe(f *os.File) {
	if st, err := f.Stat(); err == nil && st.Mode()&os.ModeNamedPipe != 0 {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	}
}
