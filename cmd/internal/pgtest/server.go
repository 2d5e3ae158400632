// Package pgtest starts PostgreSQL servers for tests and compares their databases row by row.
// Nothing is mocked: a test that needs a server gets a real one, and fails if PostgreSQL is not
// installed.
package pgtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Server is a PostgreSQL server that runs until the tests that use it end.
type Server struct {
	Port  int
	Major int

	bin  string // directory of postgres and initdb
	data string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has exited
}

// startTimeout bounds a server's start, including crash recovery.
const startTimeout = 60 * time.Second

// base has settings for logical WAL, for many parallel tests, and for speed: these files need not
// survive a crash of the machine.
var base = []string{
	"listen_addresses=127.0.0.1", "unix_socket_directories=", "wal_level=logical", "max_wal_senders=50", "max_replication_slots=50",
	"max_connections=200", "max_prepared_transactions=20", "fsync=off", "shared_buffers=64MB",
	"max_wal_size=1GB", "timezone=GMT", "log_min_messages=warning",
}

// base returns the settings of all servers of s's version.
func (s *Server) base() []string {
	if s.Major < 11 {
		return base
	}
	// Compiling a catalog query takes longer than running it. The programs' sessions also
	// disable JIT.
	return append(base[:len(base):len(base)], "jit=off")
}

// Start starts a server that runs until the test ends. A version of 0 means the newest installed
// major version. Settings have the form "name=value".
func Start(t testing.TB, major int, settings ...string) *Server {
	t.Helper()
	s, err := start(major, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of the server on port %d ends with:\n%s", s.Port, tail(s.log))
		}
		s.remove()
	})
	return s
}

// Old returns a server of 9.6, which no package archive has. PGSLUICE_96_BIN names the directory of
// its programs. Without it, the test is skipped, and says so.
func Old(t testing.TB, settings ...string) *Server {
	t.Helper()
	bin := os.Getenv("PGSLUICE_96_BIN")
	if bin == "" {
		t.Skip("not run: set PGSLUICE_96_BIN to the directory of postgres and initdb of version 9.6")
	}
	s, err := startFrom(bin, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.remove)
	return s
}

var shared struct {
	sync.Mutex
	servers map[string]*Server
}

// Source returns the source server that the tests of a package share.
// PGSLUICE_TEST_SOURCE sets its major version, PGSLUICE_TEST_TARGET that of Target. TestMain of
// a package that uses Source or Target must call Main.
func Source(t testing.TB) *Server { return sharedServer(t, "PGSLUICE_TEST_SOURCE") }

// Target returns the target server that the tests of a package share.
func Target(t testing.TB) *Server { return sharedServer(t, "PGSLUICE_TEST_TARGET") }

func sharedServer(t testing.TB, name string) *Server {
	t.Helper()
	major := 0
	if v := os.Getenv(name); v != "" {
		var err error
		if major, err = strconv.Atoi(v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	shared.Lock()
	defer shared.Unlock()
	if s := shared.servers[name]; s != nil {
		return s
	}
	s, err := start(major, nil)
	if err != nil {
		t.Fatal(err)
	}
	if shared.servers == nil {
		shared.servers = make(map[string]*Server)
	}
	shared.servers[name] = s
	return s
}

// Main runs a package's tests and then stops the shared servers.
func Main(m *testing.M) {
	code := m.Run()
	for _, s := range shared.servers {
		s.remove()
	}
	os.Exit(code)
}

func start(major int, settings []string) (*Server, error) {
	bin, err := findBin(major)
	if err != nil {
		return nil, err
	}
	return startFrom(bin, settings)
}

func startFrom(bin string, settings []string) (s *Server, err error) {
	s = &Server{bin: bin}
	if s.Major, err = majorOf(bin); err != nil {
		return nil, err
	}
	template, err := s.template()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(scratch(), fmt.Sprintf("pgsluice-test-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	s.data, s.log = filepath.Join(home, "data"), filepath.Join(home, "log")
	if err := chown(home); err != nil {
		return nil, err
	}
	if out, err := s.command("cp", "-a", template, s.data).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cp: %w: %s", err, out)
	}
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	if s.Major < 10 {
		if err := s.hba("host all all 127.0.0.1/32 trust\n"); err != nil {
			return nil, err
		}
	}
	conf := strings.Builder{}
	for _, set := range append(append([]string{"port=" + strconv.Itoa(s.Port)}, s.base()...), settings...) {
		name, value, _ := strings.Cut(set, "=")
		fmt.Fprintf(&conf, "%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''"))
	}
	if err := os.WriteFile(filepath.Join(s.data, "postgresql.auto.conf"), []byte(conf.String()), 0o644); err != nil {
		return nil, err
	}
	if err := s.launch(); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// launch starts the process and waits until it accepts connections.
func (s *Server) launch() error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command(filepath.Join(s.bin, "postgres"), "-D", s.data)
	cmd.Stdout, cmd.Stderr = log, log
	started := make(chan error)
	done := make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the parent's thread exits, so the thread must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(done)
	}()
	if err := <-started; err != nil {
		return err
	}
	s.cmd, s.done = cmd, done
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		c, err := pgx.Connect(ctx, s.URI("postgres"))
		if err == nil {
			_ = c.Close(ctx)
			cancel()
			return nil
		}
		cancel()
		select {
		case <-done:
			return fmt.Errorf("the server did not start:\n%s", tail(s.log))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server did not start within %v: %w\n%s", startTimeout, err, tail(s.log))
		}
	}
}

// AskPasswords makes the server ask every role but the superuser for a password.
func (s *Server) AskPasswords(t testing.TB) {
	t.Helper()
	if err := s.hba("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n"); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Process.Signal(syscall.SIGHUP)
	d := &DB{Server: s, Name: "postgres", URI: s.URI("postgres"), t: t}
	Wait(t, startTimeout, "pg_hba.conf has been read", func() bool {
		return d.Query("SELECT pg_conf_load_time() > pg_postmaster_start_time()") == "t"
	})
}

// hba writes pg_hba.conf. Before version 10, all does not include replication sessions.
func (s *Server) hba(lines string) error {
	if s.Major < 10 {
		lines += strings.ReplaceAll(lines, "host all", "host replication")
	}
	file := filepath.Join(s.data, "pg_hba.conf")
	return errors.Join(os.WriteFile(file, []byte(lines), 0o600), chown(file))
}

// URI returns the connection URI of a database, for the superuser, who has no password.
func (s *Server) URI(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.Port, database)
}

// Version returns the server's major version.
func (s *Server) Version() int { return s.Major }

// Kill stops the server like a crash of its machine, but without losing written data.
func (s *Server) Kill() {
	// Kill all processes at once, so that the postmaster cannot shut the others down.
	for _, pid := range append(children(s.cmd.Process.Pid), s.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-s.done
}

// Stop shuts the server down in fast mode, which waits until walsenders have sent everything.
func (s *Server) Stop() { s.Signal(syscall.SIGINT) }

// Signal sends a signal that stops the server, and waits until it has exited. SIGINT is a fast
// shutdown, SIGQUIT an immediate one.
func (s *Server) Signal(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.done:
	case <-time.After(startTimeout):
		s.Kill()
	}
}

// Restart starts a server that was stopped or killed, on the same port.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	// After a crash, children that are still exiting hold the shared memory.
	var err error
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = s.launch(); err == nil || !strings.Contains(err.Error(), "shared memory block") {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *Server) remove() {
	if s.cmd != nil {
		select {
		case <-s.done:
		default:
			s.Signal(syscall.SIGQUIT)
		}
	}
	_ = os.RemoveAll(filepath.Dir(s.data))
}

// template returns a data directory made by initdb, once for each version and machine.
func (s *Server) template() (string, error) {
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(s.bin)))[:12]
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pgsluice-initdb-%d-%s-%d", os.Getuid(), id, s.Major))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION")); err == nil {
		return filepath.Join(dir, "data"), nil
	}
	_ = os.RemoveAll(dir)
	made := dir + ".new"
	_ = os.RemoveAll(made)
	if err := os.Mkdir(made, 0o755); err != nil {
		return "", err
	}
	if err := chown(made); err != nil {
		return "", err
	}
	out, err := s.command(filepath.Join(s.bin, "initdb"), "-N", "-A", "trust", "-U", "postgres", "-E", "UTF8",
		"--locale=C", "-D", filepath.Join(made, "data")).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	return filepath.Join(dir, "data"), os.Rename(made, dir)
}

// command returns a command that runs as the servers' owner, because postgres refuses to run as
// root.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 {
		if u, err := owner(); err == nil {
			cmd.SysProcAttr.Credential = u
		}
		cmd.Env = append(os.Environ(), "HOME=/")
	}
	return cmd
}

func owner() (*syscall.Credential, error) {
	var u *user.User
	var err error
	for _, name := range []string{"postgres", "nobody"} {
		if u, err = user.Lookup(name); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func chown(path string) error {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := owner()
	if err != nil {
		return err
	}
	return os.Chown(path, int(u.Uid), int(u.Gid))
}

// findBin returns the directory of the server's programs.
func findBin(major int) (string, error) {
	if major != 0 {
		// scripts/need downloads the server once.
		out, err := exec.Command(filepath.Join(Root(), "scripts", "need"), fmt.Sprintf("pg:%d", major)).Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("%w: %s", err, exit.Stderr)
			}
			return "", fmt.Errorf("PostgreSQL %d: %w", major, err)
		}
		return filepath.Join(strings.TrimSpace(string(out)), "bin"), nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	sort.Slice(found, func(i, j int) bool { return versionIn(found[i]) > versionIn(found[j]) })
	if len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed: run the tests by scripts/test, which installs it")
	}
	return filepath.Dir(found[0]), nil
}

func versionIn(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

func majorOf(bin string) (int, error) {
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(out)) // postgres (PostgreSQL) 15.18 …
	if len(f) < 3 {
		return 0, fmt.Errorf("unexpected version %q", out)
	}
	v, _, _ := strings.Cut(f[2], ".")
	return strconv.Atoi(v)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func children(pid int) []int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	var l []int
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			l = append(l, n)
		}
	}
	return l
}

func tail(path string) string {
	b, _ := os.ReadFile(path)
	const keep = 4000
	if len(b) > keep {
		b = b[len(b)-keep:]
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	return string(b)
}

// Root returns the top directory of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}
