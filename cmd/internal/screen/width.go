package screen

import (
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// wide returns the number of columns of a character.
func wide(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// Width returns the number of columns of a text.
func Width(s string) (n int) {
	for _, r := range s {
		n += wide(r)
	}
	return n
}

// Cut shortens a text to at most the given number of columns. "…" marks the omitted text.
func Cut(s string, columns int) string {
	if Width(s) <= columns {
		return s
	}
	n := 0
	for i, r := range s {
		if n+wide(r) > columns-1 {
			if columns < 1 {
				return ""
			}
			return s[:i] + "…"
		}
		n += wide(r)
	}
	return s
}

// CutMiddle is like Cut, but omits text in the middle: names differ at their ends.
func CutMiddle(s string, columns int) string {
	if Width(s) <= columns {
		return s
	}
	head := Cut(s, (columns+1)/2)
	runes := []rune(s)
	tail, n := len(runes), Width(head)
	for tail > 0 && n+wide(runes[tail-1]) <= columns {
		tail--
		n += wide(runes[tail])
	}
	return head + string(runes[tail:])
}

// Pad returns a text of exactly the given number of columns.
func Pad(s string, columns int) string {
	s = Cut(s, columns)
	return s + strings.Repeat(" ", max(columns-Width(s), 0))
}

// Rows returns the number of terminal rows that a line takes.
func Rows(s string, columns int) int {
	rows, at := 1, 0
	for _, r := range s {
		if w := wide(r); at+w > columns {
			rows, at = rows+1, w
		} else {
			at += w
		}
	}
	return rows
}
