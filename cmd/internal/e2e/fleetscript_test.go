package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A mockFleet is a folder with a map file, and with programs that note what they are given instead
// of doing anything. A load fails if its source has the word "breaks".
type mockFleet struct {
	*pgtest.Env
	dir string
}

const (
	mockPgcutover = `case "$*" in
status*) [[ -e $FLEET_SLOT.loaded ]] || exit 78; [[ $* == *--json ]] && echo '{"load": "loaded", "tables": []}' || echo loaded ;;
check*) for free in "$(<slots)" 9; do echo '{"severity": "ok", "shared": {"server": "7/1.5", "needs": 1, "free": '"$free"'}}'; done; exit 1 ;;
*) echo "$*" >>"$FLEET_SLOT.verbs" ;;
esac
`
	mockPgextract = `cat /proc/[0-9]*/cmdline >"$FLEET_SLOT.arguments" 2>/dev/null
printf '%s\n' "$PGSLUICE_SOURCE" "$PGSLUICE_TARGET" "$PGSLUICE_SOURCE_PASSWORD_COMMAND" "$PGSLUICE_TARGET_PASSWORD_COMMAND" "$*" "${PARALLEL_SSHLOGIN:-}" >>"$FLEET_SLOT.given"
[[ $PGSLUICE_SOURCE != *breaks* || -e mended ]] || exit 69
`
	mockPgapply = `cat >/dev/null; [[ $PGSLUICE_SOURCE != *breaks* || -e mended ]] || exit 65
: >"$FLEET_SLOT.loaded"
`
	mockSSH = `echo "$*" >>ssh.arguments; while [[ $1 == -* ]]; do shift; done; shift
[[ $1 != -- ]] || shift
exec bash -c "$*"
`
)

func newMockFleet(t *testing.T, fleet string) *mockFleet {
	t.Helper()
	m := &mockFleet{dir: t.TempDir()}
	m.Env = &pgtest.Env{T: t, Dir: m.dir}
	for name, text := range map[string]string{"pgcutover": mockPgcutover, "pgextract": mockPgextract,
		"pgapply": mockPgapply, "pgdecode": "", "ssh": mockSSH} {
		m.write(name, "#!/bin/bash\ncd '"+m.dir+"'\n"+text)
	}
	m.write("fleet map", fleet)
	m.write("slots", "1")
	return m
}

func (m *mockFleet) write(name, text string) {
	m.T.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o755); err != nil {
		m.T.Fatal(err)
	}
}

// read returns what was noted in a file, or "" if it does not exist.
func (m *mockFleet) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(m.dir, name))
	return string(b)
}

func (m *mockFleet) run(args ...string) (status int, out, errs string) {
	m.T.Helper()
	args = append([]string{"-c", `cd "$1"; exec "${@:2}"`, "bash", m.dir, script("fleet")}, args...)
	status, stdout, errs := m.Run(nil, "bash", args...)
	return status, string(stdout), errs
}

// A field of the map is data: a program gets it as it is, and no process has it among its
// arguments, also on other hosts.
func TestFleetHostile(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source := `--help "'; touch pwned; $(touch pwned) {} {#} \n %s ` + "`touch pwned`" + ` s3cr3t-1`
	target := `-x postgres://u:s3cr3t-2@h/d?a=b&c=*` + " \u2028"
	m := newMockFleet(t, "# a comment\n\none-db\t"+source+"\t"+target+"\t-\tcat '$(touch pwned)'\n")
	m.Vars = []string{"PGSLUICE_SOURCE_PASSWORD_COMMAND=echo s3cr3t-3;\n: 'for all'", "PARALLEL_SSH=" + filepath.Join(m.dir, "ssh")}
	status, _, errs := m.run("fleet map", "--sshlogin", "host1")
	want := source + "\n" + target + "\n" + strings.TrimPrefix(m.Vars[0], "PGSLUICE_SOURCE_PASSWORD_COMMAND=") +
		"\ncat '$(touch pwned)'\n--slot one_db --resume\nhost1\n"
	if got := m.read("one_db.given"); status != 0 || got != want {
		t.Errorf("status %d: pgextract was given %q, want %q\n%s", status, got, want, errs)
	}
	if strings.Contains(m.read("one_db.arguments")+m.read("ssh.arguments")+errs+m.read("fleet map.logs/one-db.log"), "s3cr3t") {
		t.Error("others can see a password")
	}
	if m.read("ssh.arguments") == "" || m.read("one_db.arguments") == "" {
		t.Error("no arguments were noted")
	}
	for line, says := range map[string]string{
		"$(touch pwned)\ta\ts3cr3t": "name", "a;b\ta\ts3cr3t": "name",
		"../x\ta\ts3cr3t": "name", strings.Repeat("x", 41) + "\ta\ts3cr3t": "name", "a[$(touch pwned)]\ta\ts3cr3t": "name",
		"a\ts3cr3t": "3 to 5 fields", "a\ts3cr3t\tc\td\te\tf": "3 to 5 fields",
		"a\tb\ts3cr3t\x1b[2J":   "control characters",
		"a\tb\ts3cr3t\na\tb\td": "the name of line 1", "a\tb\ts3cr3t\nb\tb\ts3cr3t": "the target of line 1", "# a\tb\tc": "no database",
	} {
		m.write("fleet map", line+"\n")
		if status, _, errs := m.run("list", "fleet map"); status != 64 || !strings.Contains(errs, says) || strings.Contains(errs, "s3cr3t") {
			t.Errorf("%q: status %d: %s", line, status, errs)
		}
	}
	m.write("fleet map", "a\tb\tc\n")
	for _, args := range [][]string{{}, {"fleet map", "--jobs", "$(touch pwned)"}, {"fleet map", "--nonsense"},
		{"cutover", "fleet map", "$(touch pwned)"}, {"status", "fleet map", "--yes"}, {"exec", "fleet map", "a"}, {"exec", "fleet map", "z", "true"}} {
		if status, _, errs := m.run(args...); status != 64 {
			t.Errorf("%q: status %d: %s", args, status, errs)
		}
	}
	if _, err := os.Stat(filepath.Join(m.dir, "pwned")); err == nil {
		t.Error("a field of the map was executed")
	}
}

// Slots are counted before anything begins. What fails does not stop the others, and is named with
// its log and what to do next. The same command leaves alone what is done.
func TestFleetStatuses(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	m := newMockFleet(t, "a\tsource a\ttarget a\nb\tsource breaks\ttarget b\n")
	status, _, errs := m.run("fleet map")
	if status != 78 || !strings.Contains(errs, "the source of a, b has 1 free of max_replication_slots or max_wal_senders; they need 2") ||
		m.read("a.given") != "" {
		t.Errorf("too few slots: status %d: %s", status, errs)
	}
	m.write("slots", "2")
	const failed = "fleet: b failed with status 69; log: fleet map.logs/b.log\nfleet: hint: After you correct the cause: scripts/fleet "
	status, _, errs = m.run("fleet map", "--jobs", "1")
	if status != 1 || !strings.Contains(errs, failed+`fleet\ map`+"\nfleet: 1 of 2 databases failed, see above\n") ||
		m.read("a.given") == "" ||
		!strings.Contains(m.read("fleet map.logs/b.log"), "failed with status 69; the others go on") {
		t.Errorf("one fails: status %d: %s", status, errs)
	}
	if status, out, errs := m.run("status", "fleet map", "b", "a"); status != 0 || strings.Count(out, "\n") != 3 ||
		!strings.Contains(out, "\na ") || !strings.Contains(out, "\nb                    b                    none") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	if status, _, errs = m.run("cutover", "fleet map", "b", "--yes"); status != 1 || !strings.Contains(errs, "fleet cutover fleet\\ map b") {
		t.Errorf("cutover before the load: status %d: %s", status, errs)
	}
	before := m.read("a.given")
	m.write("mended", "")
	if status, _, errs = m.run("fleet map"); status != 0 || m.read("a.given") != before || strings.Count(m.read("b.given"), "\n") != 12 {
		t.Errorf("again: status %d: %s", status, errs)
	}
	if status, _, errs = m.run("cleanup", "fleet map", "--force"); status != 0 ||
		m.read("a.verbs")+m.read("b.verbs") != "cleanup --slot a --force\ncleanup --slot b --force\n" {
		t.Errorf("cleanup: status %d: %s", status, errs)
	}
	status, out, errs := m.run("exec", "fleet map", "a", "bash", "-c", `echo "$FLEET_NAME $FLEET_SLOT $PGSLUICE_SOURCE $1"`, "bash", "x  y")
	if list, _, _ := m.Run(nil, "bash", script("fleet"), "list", filepath.Join(m.dir, "fleet map")); status != 0 || out != "a a source a x  y\n" || list != 0 {
		t.Errorf("exec: status %d: %s%s", status, out, errs)
	}
}

// A field of the map is where it was written: a password command never gets to the other server.
func TestFleetFields(t *testing.T) {
	t.Parallel()
	m := newMockFleet(t, "")
	for line, want := range map[string]string{
		"a\tx\ty\t\techo 2": "", "a\tx\t\ty": "", "\ta\tx\ty": "", "a\tx\ty\t1\t2\t3": "", "a\tx\t\t\t": "",
		"a\tx\ty": "x y  ", "a\tx\ty\t\t\t": "x y  ", "a\tx\ty\t1\t": "x y 1 ", "a\tx\ty\t-\t2 ": "x y  2 ",
	} {
		m.write("fleet map", line+"\n")
		status, out, errs := m.run("exec", "fleet map", "a", "bash", "-c",
			`echo "$PGSLUICE_SOURCE $PGSLUICE_TARGET $PGSLUICE_SOURCE_PASSWORD_COMMAND $PGSLUICE_TARGET_PASSWORD_COMMAND"`)
		if want == "" && (status != 64 || !strings.Contains(errs, "line 1: ")) || want != "" && out != want+"\n" {
			t.Errorf("%q: status %d, %q, %s", line, status, out, errs)
		}
	}
}

// Logs go to a directory of one's own only.
func TestFleetLogs(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	m := newMockFleet(t, "a\tx\ty\n")
	for _, others := range []string{"mkdir -m 777 'fleet map.logs'", "mkdir elsewhere && ln -s elsewhere 'fleet map.logs'"} {
		m.Bash("cd '" + m.dir + "' && rm -rf 'fleet map.logs' && " + others)
		if status, _, errs := m.run("cleanup", "fleet map"); status != 78 || !strings.Contains(errs, "fleet map.logs") || m.read("a.verbs") != "" {
			t.Errorf("%s: status %d, %s", others, status, errs)
		}
	}
}

// A fleet that is told to stop ends after the cutovers, which have reopened their sources, and has
// their last words.
func TestFleetStops(t *testing.T) {
	t.Parallel()
	m := newMockFleet(t, "a\tx\ty\n")
	m.write("pgcutover", "#!/bin/bash\ncd '"+m.dir+`'
case "$*" in
*'--get load') echo loaded ;;
*'--get state') echo syncing ;;
status*) echo false ;;
lock*) echo 1; while read -r step; do echo "$step" >>steps; [[ $step != drain ]] || sleep 60; echo 0; done ;;
unfence*) sleep 1; echo unfence >>steps ;;
esac
`)
	p := m.Start(nil, nil, "bash", script("fleet"), "cutover", filepath.Join(m.dir, "fleet map"), "--yes")
	pgtest.Wait(t, time.Minute, "the cutover drains", func() bool { return strings.Contains(m.read("steps"), "drain") })
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	status := p.Wait(time.Minute)
	const last = "nothing was switched; the source is still the primary"
	if !strings.HasSuffix(m.read("steps"), "unfence\n") || status != 143 || !strings.Contains(p.Errors(), last) ||
		!strings.Contains(m.read("fleet map.logs/a.log"), last) {
		t.Errorf("status %d, steps %q: %s", status, m.read("steps"), p.Errors())
	}
}
