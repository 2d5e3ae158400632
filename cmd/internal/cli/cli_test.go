package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/manual"
)

// run runs a program in-process, with arguments.
func run(f func(context.Context, *cli.Env) error, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	env := &cli.Env{Name: "prog", Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
	status = env.Run(context.Background(), f)
	return status, out.String(), errs.String()
}

func TestReport(t *testing.T) {
	full := fault.New(fault.Config, "could not do it: %w", io.EOF).WithDetail("It is so.").WithHint("Do this.")
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{nil, 0, ""},
		{io.EOF, 1, "prog: EOF\n"},
		{full, 78, "prog: could not do it: EOF\nprog: detail: It is so.\nprog: hint: Do this.\n"},
		{fmt.Errorf("table x: %w", full), 78, "prog: table x: could not do it: EOF\nprog: detail: It is so.\nprog: hint: Do this.\n"},
		{fault.New(fault.TryAgain, "later").WithHint("Wait."), 75, "prog: later\nprog: hint: Wait.\n"},
	} {
		status, out, errs := run(func(context.Context, *cli.Env) error { return c.err })
		if status != c.status || errs != c.text || out != "" {
			t.Errorf("%v: status %d, output %q, errors %q", c.err, status, out, errs)
		}
		status, out, errs = run(func(_ context.Context, env *cli.Env) error { env.SetLogFormat("json"); return c.err })
		if status != c.status || out != "" || (errs == "") != (c.err == nil) {
			t.Errorf("json, %v: status %d, output %q, errors %q", c.err, status, out, errs)
		}
		if c.err == nil {
			continue
		}
		var got struct{ Level, Msg, Program, Detail, Hint string }
		if err := json.Unmarshal([]byte(errs), &got); err != nil {
			t.Fatalf("%v: %q", err, errs)
		}
		var f *fault.Error
		if !errors.As(c.err, &f) {
			f = new(fault.Error)
		}
		if got.Level != "ERROR" || got.Program != "prog" || got.Msg != c.err.Error() || got.Detail != f.Detail || got.Hint != f.Hint {
			t.Errorf("%v: %+v", c.err, got)
		}
	}
}

func TestLog(t *testing.T) {
	_, _, errs := run(func(_ context.Context, env *cli.Env) error {
		env.Log.Debug("not for users")
		env.Log.Info("begun", "tables", 3)
		env.Log.Warn("odd", "hint", "Look.")
		env.Log.With("slot", "s").WithGroup("g").Info("done")
		return nil
	})
	if want := "prog: begun tables=3\nprog: warning: odd\nprog: hint: Look.\nprog: done slot=s\n"; errs != want {
		t.Errorf("got %q, want %q", errs, want)
	}
	// Lines of several goroutines stay whole, with their hints.
	_, _, errs = run(func(_ context.Context, env *cli.Env) error {
		var g sync.WaitGroup
		for range 8 {
			g.Go(func() {
				for range 50 {
					env.Log.Info("aaaaaaaa", "hint", "Bbbbbbbb.")
				}
			})
		}
		g.Wait()
		return nil
	})
	if want := strings.Repeat("prog: aaaaaaaa\nprog: hint: Bbbbbbbb.\n", 400); errs != want {
		t.Error("lines are mixed")
	}
}

// What others control begins no line, and a terminal obeys nothing of it; JSON has it as it is, in
// escapes.
func TestControlCharacters_P11(t *testing.T) {
	const s = "x\nprog: hint: \x1b[31m\u009b\u202e\xff\ty"
	f := func(_ context.Context, env *cli.Env) error {
		env.Log.Info("table "+s, "name", s)
		env.Log.Warn(s, "hint", "Look:\n"+s)
		return fault.New(fault.Failed, "table %s: %w", s, errors.New(s)).WithDetail("%s", s).WithHint("%s", s)
	}
	const one, more = `x\nprog: hint: \x1b[31m\u009b\u202e\xff\ty`, "x\n    prog: hint: \\x1b[31m\\u009b\\u202e\\xff    y"
	_, _, errs := run(f)
	if want := "prog: table " + one + " name=" + one + "\nprog: warning: " + one + "\nprog: hint: Look:\n    " + more +
		"\nprog: table " + one + ": " + one + "\nprog: detail: " + more + "\nprog: hint: " + more + "\n"; errs != want {
		t.Errorf("got  %q\nwant %q", errs, want)
	}
	_, _, errs = run(func(ctx context.Context, env *cli.Env) error { env.SetLogFormat("json"); return f(ctx, env) })
	for _, line := range strings.SplitAfter(errs, "\n") {
		var got struct{ Msg, Name string }
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || !strings.Contains(got.Msg, strings.Replace(s, "\xff", "\ufffd", 1)) {
			t.Errorf("%q: %v, %v", line, got, err)
		}
		if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\n\x1b\u009b\u202e") {
			t.Errorf("%q", line)
		}
	}
	// Usage errors repeat what was typed.
	_, _, errs = run(func(_ context.Context, env *cli.Env) error {
		_, err := env.Parse(new(struct{}), manual.Manual{Does: "Does it."})
		return err
	}, "--"+s)
	if strings.ContainsAny(errs, "\x1b\u009b\u202e") || strings.Contains(errs, "\xff") || strings.Count(errs, "\n") != 2 {
		t.Errorf("%q", errs)
	}
}

type flags struct {
	Target  string           `placeholder:"URI" help:"The target."`
	Need    string           `required:"" help:"Something."`
	Jobs    int              `default:"4" help:"How many (4)."`
	Kind    string           `enum:"a,b" default:"a" help:"a or b."`
	Version kong.VersionFlag `help:"Print the version."`
}

func TestParse(t *testing.T) {
	parse := func(args ...string) (f flags, status int, stdout, stderr string) {
		status, stdout, stderr = run(func(_ context.Context, env *cli.Env) error {
			if _, err := env.Parse(&f, manual.Manual{Does: "Does it."}); err != nil {
				return err
			}
			fmt.Fprint(env.Stdout, "work")
			return nil
		}, args...)
		return f, status, stdout, stderr
	}
	f, status, out, errs := parse("--need", "x", "--jobs=2")
	if status != 0 || f.Need != "x" || f.Jobs != 2 || f.Kind != "a" || out != "work" || errs != "" {
		t.Errorf("status %d, %+v, output %q, errors %q", status, f, out, errs)
	}
	// Whoever asks for help gets it, whatever else is missing, and nothing is done.
	for _, args := range [][]string{{"--help"}, {"-h"}, {"--jobs=7", "--help"}} {
		_, status, out, errs = parse(args...)
		if status != 0 || errs != "" || !strings.Contains(out, "Does it.") ||
			!strings.Contains(out, "--need") || strings.HasSuffix(out, "work") {
			t.Errorf("%v: status %d, output %q, errors %q", args, status, out, errs)
		}
	}
	_, status, out, errs = parse("--version")
	if status != 0 || errs != "" || out != "prog "+cli.Build()+"\n" {
		t.Errorf("status %d, output %q, errors %q", status, out, errs)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "--need"},
		{[]string{"--need=x", "--no-such"}, "--no-such"},
		{[]string{"--need=x", "--jobs=many"}, "--jobs"},
		{[]string{"--need=x", "--kind=c"}, `"c"`},
		{[]string{"--need"}, "--need"},
		{[]string{"--need=x", "more"}, "more"},
	} {
		_, status, out, errs := parse(c.args...)
		if status != 64 || out != "" || !strings.HasPrefix(errs, "prog: ") || !strings.Contains(errs, c.says) ||
			!strings.HasSuffix(errs, "\nprog: hint: For the options: prog --help\n") {
			t.Errorf("%v: status %d, output %q, errors %q", c.args, status, out, errs)
		}
	}
	// A connection string in the wrong place must not be repeated with its password.
	for _, arg := range []string{"postgres://me:geheim@host/db", "postgres://me:ge@heim@host/db?x=y",
		"host=h password=geheim", "host=h password = geheim",
		"--nonsense=postgres://me:geheim@host/db"} {
		_, status, _, errs := parse("--need=x", arg)
		if status != 64 || strings.Contains(errs, "heim") {
			t.Errorf("status %d, errors %q", status, errs)
		}
	}
}

func TestStreams(t *testing.T) {
	status, out, _ := run(func(_ context.Context, env *cli.Env) error {
		w, err := env.Output(false)
		if err != nil {
			return err
		}
		if _, err := env.Input(); err != nil {
			return err
		}
		_, err = io.WriteString(w, "data")
		return err
	})
	if status != 0 || out != "data" {
		t.Errorf("status %d, output %q", status, out)
	}
}

func TestIsBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteString("x")
	if !cli.IsBrokenPipe(fmt.Errorf("write record 3: %w", err)) {
		t.Errorf("%v is no broken pipe", err)
	}
	for _, err := range []error{nil, io.EOF, os.ErrClosed, io.ErrClosedPipe} {
		if cli.IsBrokenPipe(err) {
			t.Errorf("%v is a broken pipe", err)
		}
	}
}
