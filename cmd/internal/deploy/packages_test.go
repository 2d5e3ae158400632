package deploy_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// packaged checks that the packages have the four programs, and all that scripts/install installs.
func packaged(t *testing.T, installed []string) {
	var config object
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &config); err != nil {
		t.Fatal(err)
	}
	var built []string
	builds, _ := config["builds"].([]any)
	for _, b := range builds {
		if !slices.Contains(at(b, "env").([]any), any("CGO_ENABLED=0")) ||
			at(b, "main") != "./cmd/"+at(b, "binary").(string) || at(b, "id") != at(b, "binary") {
			t.Errorf("build %v", b)
		}
		built = append(built, fmt.Sprint(at(b, "binary")))
	}
	if !slices.Equal(built, programs) {
		t.Errorf("goreleaser builds %q", built)
	}
	if got := fmt.Sprint(at(config, "nfpms", 0, "formats"), at(config, "archives", 0, "formats")); got != "[deb rpm] [tar.gz]" {
		t.Errorf("goreleaser makes %s", got)
	}

	for _, packager := range []string{"deb", "rpm"} {
		var sources []string
		contents, _ := at(config, "nfpms", 0, "contents").([]any)
		for _, c := range contents {
			if p := at(c, "packager"); p == nil || p == packager {
				src, found := strings.CutPrefix(fmt.Sprint(at(c, "src")), ".cache/package/usr/")
				if !found {
					t.Errorf("%v is not made by scripts/install", c)
				}
				sources = append(sources, src)
			}
		}
		for _, f := range installed {
			if slices.Contains(programs, strings.TrimPrefix(f, "bin/")) {
				continue // built for each architecture
			}
			if !slices.ContainsFunc(sources, func(s string) bool {
				ok, _ := filepath.Match(s, f)
				return ok || strings.HasPrefix(f, s+"/")
			}) {
				t.Errorf("the %s has no %s", packager, f)
			}
		}
	}
}

// goreleaser is the newest version that the Go version of go.mod can compile.
const goreleaser = "github.com/goreleaser/goreleaser/v2@v2.15.1"

// goreleaser accepts its configuration.
func TestGoreleaser(t *testing.T) {
	pgtest.Long(t) // it compiles goreleaser, unless that is in Go's cache
	cmd := exec.Command("go", "run", goreleaser, "check")
	cmd.Dir = pgtest.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("goreleaser check: %v\n%s", err, out)
	}
}
