package main

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Each example of --help can be typed as it is.
func TestExamples(t *testing.T) {
	for _, e := range about.Examples {
		for _, args := range pgtest.Commands(e.Command, "pgcutover") {
			env := &cli.Env{Name: "pgcutover", Args: args}
			if _, err := env.Parse(new(flags), about); err != nil {
				t.Errorf("%s: %v", e.Command, err)
			}
		}
	}
}
