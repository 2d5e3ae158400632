package cli

import "time"

// SetTimes sets how long after the first signal another one is not counted, and how long after the
// second one the process is ended.
func SetTimes(t, p time.Duration) { together, patience = t, p }
