// Package cli is the edge of a process: arguments, standard streams, signals, and how an error
// becomes text and an exit status.
//
// Standard output carries data only, apart from the help that somebody asked for. Everything else
// for people goes to standard error, through this package, with the program's name in front. It
// knows nothing of PostgreSQL and nothing of the stream.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/manual"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// An Env is what a program sees of the world. Tests run programs in-process with an Env of their
// own.
type Env struct {
	Name   string
	Args   []string // without the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Log    *slog.Logger // to Stderr

	// Stop is closed by the first SIGINT or SIGTERM: come to an orderly end. The second one ends
	// the context, and then the process itself.
	Stop <-chan struct{}

	signal func() os.Signal
	mu     sync.Mutex // guards Stderr
}

var (
	// together is how soon after the first signal another one is the same wish: a supervisor or a
	// terminal tells our whole group, and whoever started us passes it on.
	together = time.Second
	// patience is how long a program may take to end when its context has: what writes into a pipe
	// that nobody reads knows no context.
	patience = 5 * time.Second
)

// Main runs a program and returns its exit status. It is called by func main only.
func Main(name string, run func(context.Context, *Env) error) int {
	stop := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// A reader that goes away must be an error of Write, not the death of the process: there is
	// something to clean up.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var first os.Signal
	var mu sync.Mutex
	go func() {
		var at time.Time
		for n := 0; ; n++ {
			s := <-signals
			switch {
			case n == 0:
				at = time.Now()
				mu.Lock()
				first = s
				mu.Unlock()
				close(stop)
			case n == 1 && time.Since(at) < together:
				n--
			case n == 1:
				cancel()
				time.AfterFunc(patience, func() { exit(s) })
			default:
				exit(s)
			}
		}
	}()
	env := &Env{Name: name, Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Stop: stop}
	env.signal = func() os.Signal {
		mu.Lock()
		defer mu.Unlock()
		return first
	}
	widenPipe(os.Stdin)
	widenPipe(os.Stdout)
	return env.Run(ctx, run)
}

// exit ends the process because of a signal, whatever it is doing.
func exit(s os.Signal) {
	screen.Leave()
	os.Exit(int(signalStatus(s)))
}

// Run runs a program in this environment and returns its exit status, having reported the error, if
// any, on Stderr.
func (env *Env) Run(ctx context.Context, run func(context.Context, *Env) error) int {
	if env.Log == nil {
		env.SetLogFormat("text")
	}
	err := run(ctx, env)
	var sig os.Signal
	if env.signal != nil {
		sig = env.signal()
	}
	var done exitOK
	switch {
	case errors.As(err, &done):
		return 0
	case err == nil:
		return 0
	case sig != nil && errors.Is(err, ErrStopped):
		var f *fault.Error
		if errors.As(err, &f) {
			env.Report(err)
		}
		return int(signalStatus(sig))
	case sig != nil && ctx.Err() != nil:
		return int(signalStatus(sig))
	}
	env.Report(err)
	return int(fault.StatusOf(err))
}

// ErrStopped is returned by a program that came to an orderly end because of a signal before its
// work was done. Where there is something to say about that, a fault is around it.
var ErrStopped = errors.New("stopped by a signal")

func signalStatus(s os.Signal) fault.Status {
	if s == os.Interrupt {
		return fault.Interrupted
	}
	return fault.Terminated
}

// Report prints an error as PostgreSQL's own programs do: the message, then detail and hint.
func (env *Env) Report(err error) {
	var f *fault.Error
	attrs := []any{}
	if errors.As(err, &f) {
		if f.Detail != "" {
			attrs = append(attrs, "detail", f.Detail)
		}
		if f.Hint != "" {
			attrs = append(attrs, "hint", f.Hint)
		}
	}
	env.Log.Error(strings.TrimSpace(err.Error()), attrs...)
}

// SetLogFormat chooses how Log writes: "text" or "json".
func (env *Env) SetLogFormat(format string) {
	if format == "json" {
		env.Log = slog.New(slog.NewJSONHandler(text.JSONWriter(&lockedWriter{env}), nil)).With("program", env.Name)
		return
	}
	env.Log = slog.New(&textHandler{env: env})
}

// lockedWriter keeps lines of several goroutines whole.
type lockedWriter struct{ env *Env }

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.env.mu.Lock()
	defer w.env.mu.Unlock()
	return w.env.Stderr.Write(b)
}

// textHandler writes "program: message", and each attribute on a line of its own if it is a detail
// or hint, else behind the message. Whatever names, values and servers have brought into them, a
// terminal obeys nothing of it, and no line but ours begins at the left.
type textHandler struct {
	env   *Env
	attrs []slog.Attr
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (h *textHandler) WithGroup(string) slog.Handler                { return h }
func (h *textHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return &textHandler{env: h.env, attrs: append(h.attrs[:len(h.attrs):len(h.attrs)], a...)}
}

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b, more strings.Builder
	b.WriteString(h.env.Name)
	b.WriteString(": ")
	if r.Level == slog.LevelWarn {
		b.WriteString("warning: ")
	}
	b.WriteString(text.Escape(r.Message))
	add := func(a slog.Attr) bool {
		if a.Key == "detail" || a.Key == "hint" {
			fmt.Fprintf(&more, "%s: %s: %s\n", h.env.Name, a.Key, text.Lines(a.Value.String()))
		} else {
			fmt.Fprintf(&b, " %s=%s", a.Key, text.Escape(a.Value.String()))
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	b.WriteByte('\n')
	// In one write, so that it stays whole on a terminal that other programs write to as well.
	_, err := (&lockedWriter{h.env}).Write(screen.Message(h.env.Stderr, []byte(b.String()+more.String())))
	return err
}

// exitOK ends a program early and well, after --help and --version.
type exitOK struct{}

func (exitOK) Error() string { return "done" }

// Parse parses the arguments into flags, a pointer to a struct with kong's tags. Help and version
// are what was asked for, and go to standard output; a wrong usage is an error like any other.
func (env *Env) Parse(flags any, m manual.Manual) (*kong.Context, error) {
	exited := false
	p, err := kong.New(flags, append(m.Options(),
		kong.Name(env.Name), kong.Writers(env.Stdout, env.Stderr), kong.Exit(func(int) { exited = true }),
		kong.Vars{"version": env.Name + " " + Build(), "number": Version(), "date": Date()},
	)...)
	if err != nil {
		return nil, err // a mistake in our own tags
	}
	k, err := p.Parse(env.Args)
	if exited {
		return nil, exitOK{}
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "%s", withoutPasswords(err.Error())).WithHint("Type %s --help.", env.Name)
	}
	for _, p := range k.Path {
		if p.Flag != nil && empty(p.Flag.Target) {
			return nil, fault.New(fault.Usage, "--%s is given, and is empty", p.Flag.Name).
				WithHint("Is a variable of the shell not set? Where nothing is meant, leave --%s out.",
					p.Flag.Name)
		}
	}
	return k, nil
}

// empty reports whether a flag's value is, or has among its values, the empty string: which says
// nothing, where something was meant.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		return v.Len() == 0
	case reflect.Slice:
		for i := range v.Len() {
			if empty(v.Index(i)) {
				return true
			}
		}
	}
	return false
}

var passwords = regexp.MustCompile(`(://)\S*@|(password\s*=\s*)\S+`)

// withoutPasswords takes out of a message what a connection string in a wrong place has brought
// into it.
func withoutPasswords(msg string) string { return passwords.ReplaceAllString(msg, "$1$2…") }

// IsPipe reports whether a standard stream is a pipe.
func IsPipe(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// IsTerminal reports whether a standard stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Output returns where a stream is to be written: standard output, which must not be a terminal,
// or, if force is true, whatever it is.
func (env *Env) Output(force bool) (io.Writer, error) {
	if IsTerminal(env.Stdout) && !force {
		return nil, fault.New(fault.Usage, "standard output is a terminal, and a stream is not for eyes").
			WithHint("Pipe it into pgapply, or redirect it into a file. To print it anyway, add --force-terminal.")
	}
	return env.Stdout, nil
}

// Input returns where a stream is to be read from: standard input, which must not be a terminal.
func (env *Env) Input() (io.Reader, error) {
	if IsTerminal(env.Stdin) {
		return nil, fault.New(fault.Usage, "standard input is a terminal, a stream was expected").
			WithHint("Pipe pgextract or pgdecode into %s, or redirect a file into it.", env.Name)
	}
	return env.Stdin, nil
}

// IsBrokenPipe reports whether an error means that the reader of our output has gone.
func IsBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
