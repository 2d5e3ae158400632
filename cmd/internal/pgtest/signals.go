package pgtest

import (
	"os"
	"os/signal"
	"syscall"
)

// A signal that is ignored here, as nohup and a shell's & make it, would be ignored in all
// programs, and no script could trap it. A signal that is caught is not.
func init() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}
