// Package count prints how many there are of something.
package count

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
)

// Of returns a number and the noun that it counts: "1 table", "1,234 tables".
func Of[N ~int | ~int64 | ~uint64](n N, noun string) string {
	return humanize.Comma(int64(n)) + " " + Word(n, noun, "")
}

// Word returns the form of a word that goes with a number. The plural may be left empty if it has
// just an s.
func Word[N ~int | ~int64 | ~uint64](n N, singular, plural string) string {
	return english.PluralWord(int(n), singular, plural)
}

// Some lists names, but no more than a line has room for: "a, b and 7 more".
func Some(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
