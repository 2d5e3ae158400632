package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const unit = "scripts/deploy/systemd/pgsluice-sync@.service"

// setting returns the values of a unit's setting.
func setting(text, key string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^`+key+`=(.*)$`).FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// Sync is started again unless its status says that somebody has to do something first.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	text := read(t, unit)
	var statuses []string
	for _, s := range forPersons {
		statuses = append(statuses, fmt.Sprint(int(s)))
	}
	for key, want := range map[string]string{
		"Restart":                  "on-failure",
		"RestartPreventExitStatus": strings.Join(statuses, " "),
		"SuccessExitStatus":        "143", // after SIGTERM
		"EnvironmentFile":          "/etc/pgsluice/%i.env",
		"DynamicUser":              "yes",
		"NoNewPrivileges":          "yes",
		"ProtectSystem":            "strict",
		"PrivateTmp":               "yes",
		"CapabilityBoundingSet":    "",
	} {
		if got := setting(text, key); !slices.Equal(got, []string{want}) {
			t.Errorf("%s has %s=%q, want %q", unit, key, got, want)
		}
	}
	// Each variable is explained, and the program is one that is installed.
	example := read(t, "scripts/deploy/systemd/sync.env.example")
	command := setting(text, "ExecStart")
	if len(command) != 1 || !strings.HasPrefix(command[0], "pgsluice-sync %i") {
		t.Fatalf("%s runs %q", unit, command)
	}
	for _, v := range append(regexp.MustCompile(`\$\w+`).FindAllString(command[0], -1), "$PGSLUICE_SOURCE", "$PGSLUICE_TARGET") {
		if !strings.Contains(example, "\n"+v[1:]+"=") {
			t.Errorf("sync.env.example has no %s", v)
		}
	}

	if !tool(t, "systemd-analyze") {
		return
	}
	dir := t.TempDir()
	// systemd looks for the program, which is not installed here.
	file := filepath.Join(dir, "pgsluice-sync@mig.service")
	if err := os.WriteFile(file, []byte(strings.Replace(text, "ExecStart=pgsluice-sync", "ExecStart=/bin/true", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "--man=no", file}, {"security", "--offline=true", "--threshold=25", "--no-pager", file}} {
		if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}
