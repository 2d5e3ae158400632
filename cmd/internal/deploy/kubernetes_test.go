package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// An object is what a document of YAML, or a part of it, is.
type object = map[string]any

// documents returns the documents of a file.
func documents(t *testing.T, file string) (list []object) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(read(t, file)))
	for {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		list = append(list, o)
	}
}

// at returns what is at a path of keys and numbers, or nil.
func at(o any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := o.(object)
			o = m[p]
		case int:
			l, _ := o.([]any)
			if p >= len(l) {
				return nil
			}
			o = l[p]
		}
	}
	return o
}

func manifests(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(pgtest.Root(), "scripts/deploy/kubernetes/*.yaml"))
	if err != nil || len(list) < 5 {
		t.Fatalf("the files for Kubernetes are %q, %v", list, err)
	}
	for i, f := range list {
		list[i] = "scripts/deploy/kubernetes/" + filepath.Base(f)
	}
	return list
}

// Every pod runs a program of the image with the passwords of the secret, not as root, and with a
// read-only root.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	jobs := make(map[string]object)
	for _, file := range manifests(t) {
		for _, o := range documents(t, file) {
			name, _ := at(o, "metadata", "name").(string)
			switch o["kind"] {
			case "Secret":
				if o["apiVersion"] != "v1" || name != "pgsluice" ||
					at(o, "stringData", "PGSLUICE_SOURCE") == nil ||
					at(o, "stringData", "PGSLUICE_TARGET") == nil {
					t.Errorf("%s: %v", file, o)
				}
			case "Job":
				jobs[filepath.Base(file)+" "+name] = o
				if o["apiVersion"] != "batch/v1" {
					t.Errorf("%s: apiVersion %v", file, o["apiVersion"])
				}
				pod(t, file, o)
			default:
				t.Errorf("%s: kind %v", file, o["kind"])
			}
		}
		if text := read(t, file); strings.Contains(text, "PASSWORD") && filepath.Base(file) != "secret.yaml" {
			t.Errorf("%s has a password", file)
		}
	}
	// A pod is not tried again after a status that asks for a person. 65 of a load is tried again:
	// its stream was cut, for example because pgextract was killed.
	loads := slices.DeleteFunc(slices.Clone(forPersons), func(s fault.Status) bool { return s == fault.Data })
	for name, want := range map[string][]fault.Status{"load.yaml pgsluice-load": loads,
		"load-parallel.yaml pgsluice-load": loads, "sync.yaml pgsluice-sync": forPersons} {
		rules, _ := at(jobs[name], "spec", "podFailurePolicy", "rules").([]any)
		if len(rules) != 2 {
			t.Errorf("%s has %d rules for failures", name, len(rules))
			continue
		}
		container := at(jobs[name], "spec", "template", "spec", "containers", 0, "name")
		if at(rules[1], "action") != "FailJob" || at(rules[1], "onExitCodes", "operator") != "In" ||
			at(rules[1], "onExitCodes", "containerName") != container {
			t.Errorf("%s: %v", name, rules[1])
		}
		if got := fmt.Sprint(at(rules[1], "onExitCodes", "values")); got != fmt.Sprint(want) {
			t.Errorf("%s fails for good with %s, want %v", name, got, want)
		}
	}
	for _, name := range []string{"load-parallel.yaml pgsluice-hold", "cutover.yaml pgsluice-cutover"} {
		if at(jobs[name], "spec", "backoffLimit") != 0 {
			t.Errorf("%s is tried more than once", name)
		}
	}
}

func pod(t *testing.T, file string, job object) {
	t.Helper()
	spec := at(job, "spec", "template", "spec")
	container := at(spec, "containers", 0)
	for _, c := range []struct {
		name string
		got  any
		want any
	}{
		{"restartPolicy", at(spec, "restartPolicy"), "Never"},
		{"automountServiceAccountToken", at(spec, "automountServiceAccountToken"), false},
		{"runAsNonRoot", at(spec, "securityContext", "runAsNonRoot"), true},
		{"seccompProfile", at(spec, "securityContext", "seccompProfile", "type"), "RuntimeDefault"},
		{"allowPrivilegeEscalation", at(container, "securityContext", "allowPrivilegeEscalation"), false},
		{"readOnlyRootFilesystem", at(container, "securityContext", "readOnlyRootFilesystem"), true},
		{"capabilities", at(container, "securityContext", "capabilities", "drop", 0), "ALL"},
		{"secret", at(container, "envFrom", 0, "secretRef", "name"), "pgsluice"},
		{"image", at(container, "image"), "pgsluice"},
		{"volume", at(spec, "volumes", 0, "name"), at(container, "volumeMounts", 0, "name")},
		{"mount", at(container, "volumeMounts", 0, "mountPath"), "/tmp"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s is %v, want %v", file, c.name, c.got, c.want)
		}
	}
	if user, _ := at(spec, "securityContext", "runAsUser").(int); user == 0 {
		t.Errorf("%s runs as root", file)
	}
	command, _ := at(container, "command").([]any)
	if len(command) == 0 || !slices.Contains([]string{"bash", "pgextract", "pgsluice-sync", "pgsluice-cutover"}, fmt.Sprint(command[0])) {
		t.Errorf("%s runs %v", file, command)
		return
	}
	if command[0] == "bash" {
		if out, err := exec.Command("bash", "-n", "-c", fmt.Sprint(command[2])).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", file, out)
		}
	}
}

// kubectl knows every field that these files use: it leaves out what it does not know.
func TestKubernetesFields(t *testing.T) {
	t.Parallel()
	if !tool(t, "kubectl") {
		return
	}
	for _, file := range manifests(t) {
		var known []object
		if filepath.Base(file) == "secret.yaml" {
			continue // has no pods, which is all that kubectl can do without a server
		}
		cmd := exec.Command("kubectl", "set", "env", "--local", "-o", "json", "-f", filepath.Join(pgtest.Root(), file), "TEST=1")
		cmd.Env = []string{"PATH=" + t.TempDir(), "HOME=" + t.TempDir(), "KUBECONFIG=/nonexistent"}
		errs := new(bytes.Buffer)
		cmd.Stderr = errs
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("kubectl, %s: %v\n%s", file, err, errs)
			continue
		}
		for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
			var o object
			if err := d.Decode(&o); err != nil {
				t.Fatal(err)
			}
			known = append(known, o)
		}
		docs := documents(t, file)
		if len(known) != len(docs) {
			t.Errorf("kubectl finds %d documents in %s, which has %d", len(known), file, len(docs))
			continue
		}
		for i, o := range docs {
			for _, field := range missing("", o, known[i]) {
				t.Errorf("%s: kubectl does not know %s", file, field)
			}
		}
	}
}

// missing returns the fields of want that got does not have, or has otherwise.
func missing(path string, want, got any) (list []string) {
	switch w := want.(type) {
	case object:
		g, _ := got.(object)
		for k := range w {
			list = append(list, missing(path+"."+k, w[k], g[k])...)
		}
		return list
	case []any:
		g, _ := got.([]any)
		for i := range w {
			var x any
			if i < len(g) {
				x = g[i]
			}
			list = append(list, missing(fmt.Sprintf("%s[%d]", path, i), w[i], x)...)
		}
		return list
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		list = append(list, path)
	}
	return list
}
