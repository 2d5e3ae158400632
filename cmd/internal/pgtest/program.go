package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var programs struct {
	sync.Mutex
	dirs map[string]string
	errs map[string]error
}

// raced has the names of the tests that called Raced.
var raced sync.Map

// Raced gives a test and its subtests programs with the race detector, if the tests have it. The
// test calls it first. Other tests run programs without, hundreds of them: with the race detector a
// program takes four times longer to start. scripts/test --full runs all programs with it.
func Raced(t *testing.T) { raced.Store(t.Name(), true) }

func race(t testing.TB) bool {
	test, _, _ := strings.Cut(t.Name(), "/")
	_, one := raced.Load(test)
	return raceEnabled && (one || Full())
}

// Programs builds the four programs, once for all packages, and returns their directory. Tests that
// measure memory set plain: then the programs never have the race detector.
func Programs(t testing.TB, plain bool) string {
	t.Helper()
	flag := "-race=false"
	if !plain && race(t) {
		flag = "-race=true"
	}
	programs.Lock()
	defer programs.Unlock()
	if programs.dirs == nil {
		programs.dirs, programs.errs = make(map[string]string), make(map[string]error)
	}
	if programs.dirs[flag] == "" && programs.errs[flag] == nil {
		programs.dirs[flag], programs.errs[flag] = build(flag)
	}
	if err := programs.errs[flag]; err != nil {
		t.Fatal(err)
	}
	return programs.dirs[flag]
}

// A Process is a program or shell script that a test runs. It keeps the standard error.
type Process struct {
	*exec.Cmd
	t      testing.TB
	name   string
	errors syncBuffer
	done   chan struct{}
	err    error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// An Env is the environment in which tests run programs: their directory and the two databases.
type Env struct {
	T              testing.TB
	Dir            string // of the programs
	Source, Target string // URIs
	Vars           []string
}

// NewEnv returns an Env for a pair of databases.
func NewEnv(t testing.TB, source, target *DB) *Env {
	t.Helper()
	return &Env{T: t, Dir: Programs(t, false), Source: source.URI, Target: target.URI}
}

// Start starts one of our programs or any program on PATH. stdin and stdout may be nil. The process
// is killed when the test ends.
func (e *Env) Start(stdin io.Reader, stdout io.Writer, name string, args ...string) *Process {
	e.T.Helper()
	path := filepath.Join(e.Dir, name)
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(name); err != nil {
			e.T.Fatal(err)
		}
	}
	p := &Process{Cmd: exec.Command(path, args...), t: e.T, name: name, done: make(chan struct{})}
	p.Stdin, p.Stdout, p.Stderr = stdin, stdout, &p.errors
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.Env = append(e.environ(), e.Vars...)
	p.begin()
	return p
}

// begin starts the process. It is killed when the test ends.
func (p *Process) begin() {
	p.t.Helper()
	if err := p.Cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.done)
	}()
	p.t.Cleanup(p.Kill)
}

// environ returns the environment without libpq's variables.
func (e *Env) environ() []string {
	// By default a program with the race detector sleeps for a second before it exits.
	env := []string{"PGSLUICE_SOURCE=" + e.Source, "PGSLUICE_TARGET=" + e.Target,
		"PATH=" + e.Dir + ":" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=20"}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "PATH=") {
			env = append(env, v)
		}
	}
	return env
}

// Kill sends SIGKILL to the process group and waits for the process.
func (p *Process) Kill() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// Running reports whether the process is still running.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Errors returns what the process has written to standard error.
func (p *Process) Errors() string { return p.errors.String() }

// Wait waits for the process and returns its exit status, or 128 plus the number of the signal that
// killed it. It fails the test after timeout.
func (p *Process) Wait(timeout time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.t.Logf("%s has started:\n%s", p.name, p.descendants())
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGQUIT) // a Go program prints its stacks
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
		}
		p.t.Fatalf("%s has not ended after %v; standard error:\n%s", p.name, timeout, p.Errors())
	}
	var exit *exec.ExitError
	switch {
	case p.err == nil:
		return 0
	case errors.As(p.err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return exit.ExitCode()
	}
	p.t.Fatalf("%s: %v", p.name, p.err)
	return -1
}

// descendants lists the process and its running descendants, because a script waits for its
// descendants. The list has no other processes of the machine.
func (p *Process) descendants() string {
	const ours = `$1 == root || $2 in ours { ours[$1] = 1; print }`
	out, _ := exec.Command("sh", "-c", "ps -eo pid,ppid,etime,wchan:20,args --sort=start_time | awk -v root=$1 '"+ours+"'", "sh",
		strconv.Itoa(p.Process.Pid)).CombinedOutput()
	return string(out)
}

// WatchMemory samples the process's peak memory until it exits; peak returns that, in KiB. The
// kernel's value after the exit would include the memory of the parent at the fork.
func (p *Process) WatchMemory() (peak func() int) {
	var most atomic.Int64
	go func() {
		for p.Running() {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
			var kib int64
			if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
				_, _ = fmt.Sscan(rest, &kib)
			}
			most.Store(max(most.Load(), kib))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return func() int { return int(most.Load()) }
}

// runTimeout bounds one program's run.
const runTimeout = 3 * time.Minute

// Run runs a program until it exits and returns its status, standard output and standard error.
func (e *Env) Run(stdin []byte, name string, args ...string) (status int, stdout []byte, stderr string) {
	e.T.Helper()
	var out bytes.Buffer
	p := e.Start(bytes.NewReader(stdin), &out, name, args...)
	status = p.Wait(runTimeout)
	return status, out.Bytes(), p.Errors()
}

// Must runs a program that must succeed, and returns its standard output.
func (e *Env) Must(stdin []byte, name string, args ...string) []byte {
	e.T.Helper()
	status, out, errs := e.Run(stdin, name, args...)
	if status != 0 {
		e.T.Fatalf("%s %s: exit status %d\n%s", name, strings.Join(args, " "), status, errs)
	}
	return out
}

// Bash runs a script that must succeed, with pipefail, in the repository's top directory, and
// returns its standard output.
func (e *Env) Bash(script string, args ...string) string {
	e.T.Helper()
	return string(e.Must(nil, "bash", append([]string{"-c", "set -euo pipefail; cd '" + Root() + "'; " + script, "bash"}, args...)...))
}

// Context returns a context that is canceled when the test ends, or after runTimeout.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	t.Cleanup(cancel)
	return ctx
}

// Full reports whether scripts/test --full runs the test.
func Full() bool { return os.Getenv("PGSLUICE_TEST_FULL") != "" }

// Often returns how often a test tries something, and long if scripts/test --full runs it.
func Often(short, long int) int {
	if Full() {
		return long
	}
	return short
}

// Slow skips a test that takes too long for every run of scripts/test. scripts/test --full runs it,
// and scripts/test-versions with each pair of versions if it has the package.
func Slow(t testing.TB) {
	t.Helper()
	if !Full() && os.Getenv("PGSLUICE_TEST_SOURCE") == "" {
		t.Skip("scripts/test --full runs it")
	}
}

// Long skips a test that only scripts/test --full runs, with one pair of versions.
func Long(t testing.TB) {
	t.Helper()
	if !Full() {
		t.Skip("scripts/test --full runs it")
	}
}
