package inventory

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every catalog that Read reads is part of the stamp.
func TestStampedCatalogs_C5(t *testing.T) {
	of := regexp.MustCompile(`(?:FROM|JOIN|,) (?:ONLY )?pg_catalog\.(pg_\w+)`)
	for _, v := range []int{100000, 140000, 150000, 180000} {
		var stamped []string
		for _, x := range stampedCatalogs(v) {
			stamped = append(stamped, strings.Fields(x.from)[0])
			stamped = append(stamped, matches(of, x.from)...)
		}
		read := matches(of, strings.Join(queries(v), "\n"))
		if len(read) < 40 {
			t.Errorf("Read reads only %q", read)
		}
		for _, catalog := range read {
			if !slices.Contains(stamped, catalog) {
				t.Errorf("%d: Read reads %s, which Stamp does not", v, catalog)
			}
		}
	}
}

// matches returns the first group of each match, without those that are functions.
func matches(of *regexp.Regexp, s string) (list []string) {
	for _, m := range of.FindAllStringSubmatchIndex(s, -1) {
		if name := s[m[2]:m[3]]; !strings.HasPrefix(s[m[3]:], "(") && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}
