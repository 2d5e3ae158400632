//go:build !race

package pgtest

import "os"

// PGSLUICE_TEST_RACE makes tests that have no race detector themselves run programs that have it.
var raceEnabled = os.Getenv("PGSLUICE_TEST_RACE") != ""
