package pgdial_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The password command runs for each connection of any kind, knows where it leads to, and wins over
// other passwords. A password that is replaced at this moment is asked for again.
func TestPasswordCommand(t *testing.T) {
	server := pgtest.Start(t, 0)
	server.AskPasswords(t)
	d := server.Database(t, "")
	d.Exec("CREATE ROLE mover LOGIN REPLICATION PASSWORD 'first'")
	dir := t.TempDir()
	runs, secret := filepath.Join(dir, "runs"), filepath.Join(dir, "secret")
	write := func(s string) {
		if err := os.WriteFile(secret, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := source(d.As("mover", "wrong"))
	s.PasswordCommand = fmt.Sprintf(`echo "$PGUSER@$PGHOST:$PGPORT/$PGDATABASE" >> '%s'; cat '%s'; cat`, runs, secret)
	write("first")
	for name, connect := range ways {
		c, err := connect(pgtest.Context(t), s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = c.Close(pgtest.Context(t))
	}
	b, _ := os.ReadFile(runs)
	if want := strings.Repeat(fmt.Sprintf("mover@127.0.0.1:%d/%s\n", d.Port, d.Name), len(ways)); string(b) != want {
		t.Errorf("the runs were %q", b)
	}
	d.Exec("ALTER ROLE mover PASSWORD 'second'")
	time.AfterFunc(300*time.Millisecond, func() { write("second") })
	c, err := s.Connect(pgtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close(pgtest.Context(t))
	write("wrong")
	if _, err := s.Connect(pgtest.Context(t)); fault.StatusOf(err) != fault.Permission {
		t.Errorf("status %d: %v", fault.StatusOf(err), err)
	}
}

// A command that fails says how, and never what it has printed.
func TestPasswordCommandFails(t *testing.T) {
	const secret = "hunter2"
	dir := t.TempDir()
	for _, c := range []struct {
		command string
		status  fault.Status
		says    string
	}{
		{"echo hunter2; exit 3", fault.TryAgain, "the source's password command failed: exit status 3"},
		{"echo hunter2; kill -9 $$", fault.TryAgain, "failed: signal: killed"},
		{"/no/such/program --password hunter2", fault.Config, "failed: exit status 127"},
		{"true", fault.TryAgain, "printed nothing"},
		{`printf '{\n"token": "hunter2"\n}\n'`, fault.Config, "prints more than a password"},
		{"yes hunter2", fault.Config, "prints more than a password"},
		{"echo hunter2; sleep 60; touch " + dir + "/after", fault.TryAgain, "did not end within 2s"},
		// No server is there.
		{"(sleep 60; touch " + dir + "/after) & echo hunter2", fault.TryAgain, "could not connect to the source"},
	} {
		restore := pgdial.SetCommandTimeout(2 * time.Second)
		s := source("postgres://mover@127.0.0.1:1/none?sslmode=disable")
		s.PasswordCommand = c.command
		began := time.Now()
		_, err := s.Connect(pgtest.Context(t))
		restore()
		if fault.StatusOf(err) != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: status %d: %v", c.command, fault.StatusOf(err), err)
		}
		if strings.Contains(fmt.Sprintf("%+v", err), secret) {
			t.Errorf("%s: the error has the secret: %+v", c.command, err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: it took %v", c.command, took)
		}
	}
	// A stop does not wait for the command.
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	s := source("postgres://mover@127.0.0.1:1/none?sslmode=disable")
	s.PasswordCommand = "sleep 60"
	if _, err := s.Connect(ctx); err != context.Canceled {
		t.Error(err)
	}
}
