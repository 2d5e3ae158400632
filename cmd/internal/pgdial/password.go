package pgdial

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

var (
	// commandTimeout bounds a run of a password command. It has neither input nor a terminal, so
	// that one that asks a person would never end.
	commandTimeout = 30 * time.Second
	// renewal is how long a new password may take from the server, which knows it first, to where
	// the password command finds it.
	renewal = time.Second
)

// login connects. If there is a password command, each attempt begins with a new password, and a
// refused one is renewed once.
func (s Server) login(ctx context.Context, c *pgconn.Config, connect func() error) error {
	if err := s.AskPassword(ctx, c); err != nil {
		return err
	}
	err := connect()
	var pg *pgconn.PgError
	// Services that verify tokens by PAM report 28000.
	if errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000") && s.RenewPassword(ctx, c) {
		err = connect()
	}
	return s.Explain(err)
}

// AskPassword puts the password that the password command prints into a config, if there is such a
// command. A password may be passed on to another program only in that program's environment.
func (s Server) AskPassword(ctx context.Context, c *pgconn.Config) error {
	if s.PasswordCommand == "" {
		return nil
	}
	password, err := s.runCommand(ctx, c)
	if err == nil {
		c.Password = password
	}
	return err
}

// RenewPassword is called after a failure that a password may have caused which was replaced
// between the run of the command and its use. It reports whether there is a different one now.
func (s Server) RenewPassword(ctx context.Context, c *pgconn.Config) bool {
	if s.PasswordCommand == "" {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(renewal):
	}
	old := c.Password
	return s.AskPassword(ctx, c) == nil && c.Password != old
}

// runCommand runs the password command and returns what it prints. No error quotes the command or
// its output.
func (s Server) runCommand(ctx context.Context, c *pgconn.Config) (string, error) {
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, "sh", "-c", s.PasswordCommand)
	// Tokens are for one user on one server.
	cmd.Env = append(os.Environ(), "PGHOST="+c.Host, "PGPORT="+port(c), "PGUSER="+c.User, "PGDATABASE="+c.Database)
	var out bounded
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	// What the shell has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it left a process behind that has its output open
		_ = cmd.Cancel()
		err = nil
	}
	var exit *exec.ExitError
	switch {
	case err == nil, out.over:
	case ctx.Err() != nil:
		return "", ctx.Err()
	case limited.Err() != nil:
		return "", s.byHand(fault.New(fault.TryAgain, "the %s's password command did not end within %v", s.Side, commandTimeout))
	case errors.As(err, &exit):
		status := fault.TryAgain // a service that issues tokens may be away for a moment
		if code := exit.ExitCode(); code == 126 || code == 127 {
			status = fault.Config // the shell does not find the program, or may not run it
		}
		return "", s.byHand(fault.New(status, "the %s's password command failed: %s", s.Side, exit))
	default:
		return "", s.byHand(fault.New(fault.Config, "the %s's password command could not be run: %w", s.Side, err))
	}
	password := strings.TrimRight(string(out.kept), "\r\n") // as $(…) does
	switch {
	case out.over, strings.ContainsFunc(password, unicode.IsControl):
		return "", s.byHand(fault.New(fault.Config, "the %s's password command prints more than a password", s.Side))
	case password == "":
		return "", s.byHand(fault.New(fault.TryAgain, "the %s's password command printed nothing", s.Side))
	}
	return password, nil
}

// byHand adds to an error of the password command how to find out more.
func (s Server) byHand(err *fault.Error) error {
	return err.WithDetail("It runs for each new connection, without input. Its own messages are on standard error.").
		WithHint("Run the command of --%[1]s-password-command or PGSLUICE_%[2]s_PASSWORD_COMMAND by hand: sh -c COMMAND </dev/null must print the password in one line, and nothing else.",
			s.Side, strings.ToUpper(s.Side))
}

// longest bounds the output of a password command. A token has a few thousand bytes.
const longest = 64 << 10

// A bounded keeps output up to a limit.
type bounded struct {
	kept []byte
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > longest {
		b.over = true
		return 0, io.ErrShortWrite
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}
