package cli_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The test binary is the programs whose signals and streams are tested as well.
func TestMain(m *testing.M) {
	name := os.Getenv("CLI_TEST_PROGRAM")
	if f := programs[name]; f != nil {
		switch name {
		case "told at once":
			cli.SetTimes(time.Hour, time.Hour)
		case "deaf and mute":
			cli.SetTimes(0, 0)
		default:
			cli.SetTimes(0, time.Hour)
		}
		os.Exit(cli.Main("prog", f))
	}
	pgtest.Main(m)
}

func unhurried(ctx context.Context, env *cli.Env) error {
	fmt.Fprintln(env.Stdout, "ready")
	<-env.Stop
	fmt.Fprintln(env.Stdout, "stopping")
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second):
		return nil
	}
}

func deaf(ctx context.Context, env *cli.Env) error {
	fmt.Fprintln(env.Stdout, "ready")
	<-env.Stop
	fmt.Fprintln(env.Stdout, "stopping")
	<-ctx.Done()
	fmt.Fprintln(env.Stdout, "cancelled")
	select {}
}

var programs = map[string]func(context.Context, *cli.Env) error{
	// orderly does what a program that has a boundary to stop at does.
	"orderly": func(_ context.Context, env *cli.Env) error {
		fmt.Fprintln(env.Stdout, "ready")
		<-env.Stop
		return fmt.Errorf("at the end of record 5: %w", cli.ErrStopped)
	},
	// finished comes to its end because of a signal, with all its work done.
	"finished": func(_ context.Context, env *cli.Env) error {
		fmt.Fprintln(env.Stdout, "ready")
		<-env.Stop
		return nil
	},
	// broken fails while it stops.
	"broken": func(_ context.Context, env *cli.Env) error {
		fmt.Fprintln(env.Stdout, "ready")
		<-env.Stop
		return fault.New(fault.Data, "torn")
	},
	// slow hears only the end of its context.
	"slow": func(ctx context.Context, env *cli.Env) error {
		fmt.Fprintln(env.Stdout, "ready")
		<-env.Stop
		fmt.Fprintln(env.Stdout, "stopping")
		<-ctx.Done()
		return ctx.Err()
	},
	// unhurried comes to its end if nobody interrupts that.
	"unhurried": unhurried,
	// told at once is the same for a process for which all signals are one wish.
	"told at once": unhurried,
	// deaf hears nothing.
	"deaf": deaf,
	// deaf and mute is the same when there is no patience with it.
	"deaf and mute": deaf,
	"writer": func(_ context.Context, env *cli.Env) error {
		w, err := env.Output(false)
		for err == nil {
			_, err = w.Write(make([]byte, 4096))
		}
		if cli.IsBrokenPipe(err) {
			return fault.New(fault.TryAgain, "could not write: %w", err)
		}
		return err
	},
	"forced": func(_ context.Context, env *cli.Env) error {
		w, err := env.Output(true)
		if err == nil {
			_, err = io.WriteString(w, "stream")
		}
		return err
	},
	"reader": func(_ context.Context, env *cli.Env) error {
		_, err := env.Input()
		return err
	},
}

func program(name string) (*exec.Cmd, *strings.Builder) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CLI_TEST_PROGRAM="+name)
	errs := new(strings.Builder)
	cmd.Stderr = errs
	return cmd, errs
}

// end waits for a process and returns its exit status, −1 for death by a signal.
func end(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestSignals(t *testing.T) {
	const intr, term = syscall.SIGINT, syscall.SIGTERM
	for _, c := range []struct {
		program string
		signals []syscall.Signal
		status  int
		stderr  string
	}{
		{"orderly", []syscall.Signal{term}, 143, ""},
		{"orderly", []syscall.Signal{intr}, 130, ""},
		{"orderly", []syscall.Signal{syscall.SIGHUP}, 143, ""},
		{"finished", []syscall.Signal{term}, 0, ""},
		{"broken", []syscall.Signal{term}, 65, "prog: torn\n"},
		{"slow", []syscall.Signal{term, intr}, 143, ""},
		{"slow", []syscall.Signal{intr, intr}, 130, ""},
		{"deaf", []syscall.Signal{intr, intr, term}, 143, ""},
		{"deaf and mute", []syscall.Signal{intr, term}, 143, ""}, // our patience is over
		// as it should be, if nobody tells us twice at once
		{"unhurried", []syscall.Signal{intr, intr}, 130, ""},
		{"told at once", []syscall.Signal{intr, intr}, 0, ""},
	} {
		cmd, errs := program(c.program)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for _, s := range c.signals {
			if !lines.Scan() { // it says when it is ready for the next one
				break
			}
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		status := end(t, cmd)
		if status != c.status || errs.String() != c.stderr {
			t.Errorf("%s %v: status %d, errors %q", c.program, c.signals, status, errs)
		}
	}
}

// A reader that goes away is an error to be handled, not the death of the process.
func TestReaderGoesAway(t *testing.T) {
	cmd, errs := program("writer")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 10000)); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if status := end(t, cmd); status != 75 || !strings.HasPrefix(errs.String(), "prog: could not write: ") {
		t.Errorf("status %d, errors %q", status, errs)
	}
}

// terminal returns both ends of a new terminal.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

func TestTerminal(t *testing.T) {
	ours, theirs := terminal(t)
	if !cli.IsTerminal(theirs) || cli.IsTerminal(new(strings.Builder)) {
		t.Error("a terminal is not told from what is none")
	}
	cmd, errs := program("writer")
	cmd.Stdout = theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if status := end(t, cmd); status != 64 || !strings.Contains(errs.String(), "--force-terminal") {
		t.Errorf("writing to a terminal: status %d, errors %q", status, errs)
	}
	cmd, errs = program("reader")
	cmd.Stdin = theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if status := end(t, cmd); status != 64 || !strings.Contains(errs.String(), "standard input is a terminal") {
		t.Errorf("reading from a terminal: status %d, errors %q", status, errs)
	}
	cmd, errs = program("forced")
	cmd.Stdout = theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(ours, got); err != nil || string(got) != "stream" {
		t.Errorf("the terminal got %q, %v", got, err)
	}
	if status := end(t, cmd); status != 0 {
		t.Errorf("forced: status %d, errors %q", status, errs)
	}
}
