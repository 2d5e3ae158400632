// Package count prints numbers together with the noun they count.
package count

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
)

// Of returns a number and its noun: "1 table", "1,234 tables".
func Of[N ~int | ~int64 | ~uint64](n N, noun string) string {
	return humanize.Comma(int64(n)) + " " + Word(n, noun, "")
}

// Word returns the form of a word for a number. An empty plural stands for the regular plural form.
func Word[N ~int | ~int64 | ~uint64](n N, singular, plural string) string {
	return english.PluralWord(int(n), singular, plural)
}

// Some lists names, but no more than fit on a line: "a, b and 7 more".
func Some(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
