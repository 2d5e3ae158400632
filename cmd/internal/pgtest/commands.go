package pgtest

import (
	"regexp"
	"strings"
)

var redirection = regexp.MustCompile(`[<>] *\S+`)

// Commands returns the arguments of each call of program in a shell command line, which must have
// no quotes.
func Commands(line, program string) (list [][]string) {
	for part := range strings.SplitSeq(redirection.ReplaceAllString(line, ""), "|") {
		if args := strings.Fields(part); len(args) > 0 && args[0] == program {
			list = append(list, args[1:])
		}
	}
	return list
}
