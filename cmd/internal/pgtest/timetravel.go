package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Copy stops the server, copies its files like a snapshot of its disk, and starts it again. It
// returns the copy's directory, which Restore takes.
func (s *Server) Copy(t testing.TB) (copied string) {
	t.Helper()
	s.Stop()
	var err error
	if copied, err = os.MkdirTemp(filepath.Dir(s.data), "copy-"); err != nil {
		t.Fatal(err)
	}
	if err := chown(copied); err != nil {
		t.Fatal(err)
	}
	if out, err := s.command("cp", "-a", s.data, filepath.Join(copied, "data")).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	s.Restart(t)
	return copied
}

// Restore stops the server and starts it from a copy: on the same timeline, or on a new one as
// after a recovery (version 12 and newer).
func (s *Server) Restore(t testing.TB, copied string, newTimeline bool) {
	t.Helper()
	s.Stop()
	if err := os.RemoveAll(s.data); err != nil {
		t.Fatal(err)
	}
	if out, err := s.command("cp", "-a", filepath.Join(copied, "data"), s.data).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	if newTimeline {
		signal := filepath.Join(s.data, "recovery.signal")
		if err := os.WriteFile(signal, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := chown(signal); err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(s.data, "postgresql.auto.conf")
		f, err := os.OpenFile(conf, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("restore_command = 'false'\n"); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	s.Restart(t)
	d := &DB{Server: s, Name: "postgres", URI: s.URI("postgres"), t: t}
	Wait(t, startTimeout, "the server takes writes", func() bool { return d.Query("SELECT pg_is_in_recovery()") == "f" })
}

// Clone stops the server, copies its files, restarts it, and starts a second server from the copy.
func (s *Server) Clone(t testing.TB) *Server {
	t.Helper()
	return s.clone(t, false)
}

// Standby is like Clone, but the second server is a standby of the first, with the given settings.
func (s *Server) Standby(t testing.TB, settings ...string) *Server {
	t.Helper()
	return s.clone(t, true, append(settings,
		fmt.Sprintf("primary_conninfo=host=127.0.0.1 port=%d user=postgres dbname=postgres", s.Port))...)
}

func (s *Server) clone(t testing.TB, standby bool, settings ...string) *Server {
	t.Helper()
	copied := s.Copy(t)
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	c := &Server{bin: s.bin, Major: s.Major, Port: port, data: filepath.Join(copied, "data"), log: filepath.Join(copied, "log")}
	f, err := os.OpenFile(filepath.Join(c.data, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range append(settings, fmt.Sprintf("port=%d", port)) {
		name, value, _ := strings.Cut(set, "=")
		if _, err := fmt.Fprintf(f, "%s = '%s'\n", name, value); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	if standby {
		signal := filepath.Join(c.data, "standby.signal")
		if err := os.WriteFile(signal, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := chown(signal); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.remove)
	return c
}
