package progress

import (
	"context"
	"strconv"
	"strings"
)

// One cutover of a stream at a time changes the two servers. Two locks ensure that. A step holds
// StepLock while it runs, so that no step runs beside another. A script that runs several steps
// holds CutoverLock from its first step to its last.

// The locks of a cutover.
var (
	CutoverLock = What{{name: "cutover", exclusive: true}}
	StepLock    = What{{name: "cutover step", exclusive: true}}
)

// WatchLock is the lock of the session that looks for writes to the source of an open target.
var WatchLock = What{{name: "watch", exclusive: true}}

// CutoverHolder returns the server process of the session of ours that holds CutoverLock, and a
// description of the session. Both are empty if nobody holds the lock.
func CutoverHolder(ctx context.Context, ask Ask, stream int32) (pid, holder string, err error) {
	_, all, err := secrets(ctx, ask, stream)
	if err != nil {
		return "", "", err
	}
	keys := make([]string, len(all))
	for i, s := range all {
		keys[i] = strconv.FormatInt(CutoverLock[0].key(s), 10)
	}
	row, err := ask(ctx, "SELECT l.pid, "+sessionText+held+"IN ("+strings.Join(keys, ", ")+") AND l.granted AND l.pid IS NOT NULL AND "+ours+" LIMIT 1")
	if err != nil || len(row) != 2 {
		return "", "", err
	}
	return row[0], row[1], nil
}
