package fault_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

func TestStatusOf(t *testing.T) {
	inner := fault.New(fault.Data, "torn: %w", io.ErrUnexpectedEOF)
	for _, c := range []struct {
		name string
		err  error
		want fault.Status
	}{
		{"nil", nil, fault.OK},
		{"an error without a status", io.EOF, fault.Failed},
		{"an Error", inner, fault.Data},
		{"wrapped", fmt.Errorf("read table x: %w", inner), fault.Data},
		{"joined", errors.Join(io.EOF, inner), fault.Data},
		{"the outermost counts", &fault.Error{Status: fault.TryAgain, Err: inner}, fault.TryAgain},
	} {
		if got := fault.StatusOf(c.err); got != c.want {
			t.Errorf("%s: status %d, not %d", c.name, got, c.want)
		}
	}
}

func TestError(t *testing.T) {
	err := fault.New(fault.Permission, "could not open %q: %w", "x", os.ErrPermission).WithDetail("It is %d.", 1).WithHint("Try %s.", "y")
	if got := err.Error(); got != `could not open "x": permission denied` {
		t.Errorf("message %q", got)
	}
	if !errors.Is(err, os.ErrPermission) {
		t.Error("the cause is lost")
	}
	if err.Detail != "It is 1." || err.Hint != "Try y." {
		t.Errorf("detail %q, hint %q", err.Detail, err.Hint)
	}
}

// What scripts rely on is the table in docs/troubleshooting.md.
func TestStatusesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[fault.Status]bool)
	for _, row := range regexp.MustCompile(`(?m)^\| ([0-9, ]+) \|`).FindAllStringSubmatch(string(page), -1) {
		for _, n := range regexp.MustCompile(`\d+`).FindAllString(row[1], -1) {
			v, _ := strconv.Atoi(n)
			documented[fault.Status(v)] = true
		}
	}
	chosen := []fault.Status{fault.OK, fault.Failed, fault.Usage, fault.Data, fault.Unavailable,
		fault.TryAgain, fault.Permission, fault.Config,
		fault.Interrupted, fault.Terminated}
	for _, s := range chosen {
		if !documented[s] {
			t.Errorf("docs/troubleshooting.md does not have status %d", s)
		}
		delete(documented, s)
	}
	if len(documented) > 0 {
		t.Errorf("docs/troubleshooting.md has statuses that no program chooses: %v", documented)
	}
}
