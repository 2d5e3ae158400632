package main

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Each example of --help can be typed as it is.
func TestExamples(t *testing.T) {
	for _, e := range about.Examples {
		for _, args := range pgtest.Commands(e.Command, "pgdecode") {
			env := &cli.Env{Name: "pgdecode", Args: args}
			if _, err := env.Parse(new(flags), about); err != nil {
				t.Errorf("%s: %v", e.Command, err)
			}
		}
	}
}
