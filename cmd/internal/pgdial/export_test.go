package pgdial

import "time"

// SetCommandTimeout replaces the limit of a run of a password command until restore is called.
func SetCommandTimeout(d time.Duration) (restore func()) {
	old := commandTimeout
	commandTimeout = d
	return func() { commandTimeout = old }
}
