package deploy_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

var programs = []string{"pgextract", "pgdecode", "pgapply", "pgcutover"}

// forPersons are the statuses with which a command fails until a person has done something.
var forPersons = []fault.Status{fault.Failed, fault.Usage, fault.Data, fault.Unavailable, fault.Permission, fault.Config}

// read returns a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(pgtest.Root(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// installed installs everything below prefix, with the programs that tests have built.
func installed(t *testing.T, prefix string) {
	t.Helper()
	runInstall(t, prefix, "--bin", pgtest.Programs(t, true))
}

// runInstall runs scripts/install.
func runInstall(t *testing.T, prefix string, args ...string) {
	t.Helper()
	cmd := exec.Command("bash", append([]string{filepath.Join(pgtest.Root(), "scripts", "install")}, args...)...)
	cmd.Env = append(os.Environ(), "PREFIX="+prefix, "DESTDIR=", "GOFLAGS=-buildvcs=auto")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("scripts/install: %v\n%s", err, out)
	}
}

// files lists the files below a folder.
func files(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// tool reports whether a program of others is installed, and says so if not.
func tool(t *testing.T, name string) bool {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Logf("%s is not installed, and has checked nothing", name)
		return false
	}
	return true
}
