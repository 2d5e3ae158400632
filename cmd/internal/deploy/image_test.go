package deploy_test

import (
	"regexp"
	"strings"
	"testing"
)

// The image has static programs, built with the Go version of go.mod, pg_dump, and what the scripts
// need. It does not run as root.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text := read(t, "Dockerfile")
	build, run, found := strings.Cut(text, "\nFROM debian:")
	if !found {
		t.Fatal("the Dockerfile has not two stages")
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	for part, wants := range map[string][]string{
		build: {"FROM golang:" + version + "-", "DESTDIR=/out scripts/install"},
		run:   {"postgresql-client-$POSTGRES", " procps ", "ca-certificates", "COPY --from=build /out/ /\n", "\nUSER 65532:65532\n"},
	} {
		for _, want := range wants {
			if !strings.Contains(part, want) {
				t.Errorf("the Dockerfile has no %q, or not in the right stage", want)
			}
		}
	}
	if strings.Contains(run[strings.Index(run, "\nUSER "):], "\nRUN ") {
		t.Error("the Dockerfile runs something after USER")
	}
	if !strings.Contains(read(t, "scripts/install"), "CGO_ENABLED=0 go build") {
		t.Error("scripts/install does not build static programs")
	}
}
