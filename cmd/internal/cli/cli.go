// Package cli handles a process's arguments, standard streams and signals, and turns an error into
// text and an exit status.
//
// Standard output carries only data, and help on request. All other text for people goes to
// standard error through this package, prefixed with the program's name. The package does not
// depend on PostgreSQL or on the stream.
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

// An Env is a program's environment. Tests run programs in-process with an Env of their own.
type Env struct {
	Name   string
	Args   []string // without the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Log    *slog.Logger // to Stderr

	// Stop is closed by the first SIGINT, SIGTERM or, without nohup, SIGHUP, and asks for an
	// orderly end. The second signal cancels the context and, after patience, ends the process.
	Stop <-chan struct{}

	signal func() os.Signal
	mu     sync.Mutex // guards Stderr
}

var (
	// together is the time within which a second signal counts as the same request: a supervisor or
	// a terminal signals the whole process group, and our parent passes the signal on.
	together = time.Second
	// patience is how long a program may run after its context is cancelled: a write to a pipe that
	// nobody reads does not notice the context.
	patience = 5 * time.Second
)

// Main runs a program and returns its exit status. Only func main calls it.
func Main(name string, run func(context.Context, *Env) error) int {
	stop := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// When the reader exits, Write must return an error. SIGPIPE would end the process before it
	// can clean up.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 3)
	// A shell's & has a script's program ignore SIGINT, but the script relies on it.
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup has it ignored
		signal.Notify(signals, syscall.SIGHUP)
	}
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

// Hangups returns the SIGHUPs that arrive from now on. They no longer ask for an orderly end.
func Hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Reset(syscall.SIGHUP)
	signal.Notify(c, syscall.SIGHUP)
	return c
}

// exit ends the process at once because of a signal.
func exit(s os.Signal) {
	screen.Leave()
	os.Exit(int(signalStatus(s)))
}

// Run runs a program in this environment, reports its error, if any, on Stderr, and returns its
// exit status.
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

// ErrStopped is returned by a program that ended in order because of a signal, before its work was
// done. A fault may wrap it, to say more.
var ErrStopped = errors.New("stopped by a signal")

func signalStatus(s os.Signal) fault.Status {
	if s == os.Interrupt {
		return fault.Interrupted
	}
	return fault.Terminated
}

// Report prints an error like PostgreSQL's programs: message, detail and hint.
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

// SetLogFormat sets the format of Log: "text" or "json".
func (env *Env) SetLogFormat(format string) {
	if format == "json" {
		env.Log = slog.New(slog.NewJSONHandler(text.JSONWriter(&lockedWriter{env}), nil)).With("program", env.Name)
		return
	}
	env.Log = slog.New(&textHandler{env: env})
}

// lockedWriter keeps the lines of several goroutines apart.
type lockedWriter struct{ env *Env }

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.env.mu.Lock()
	defer w.env.mu.Unlock()
	return w.env.Stderr.Write(b)
}

// textHandler writes "program: message". Details and hints get lines of their own; other attributes
// follow the message. Names, values and server messages are escaped: they cannot control the
// terminal, nor start a line that looks like ours.
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
	// One write keeps the message together on a terminal that other programs write to.
	_, err := (&lockedWriter{h.env}).Write(screen.Message(h.env.Stderr, []byte(b.String()+more.String())))
	return err
}

// exitOK ends a program with status 0 after --help and --version.
type exitOK struct{}

func (exitOK) Error() string { return "done" }

// Parse parses the arguments into flags, a pointer to a struct with kong's tags. Help and version
// go to standard output. A usage error is returned like any other.
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
		return nil, fault.New(fault.Usage, "%s", withoutPasswords(err.Error())).WithHint("For the options: %s --help", env.Name)
	}
	for _, p := range k.Path {
		if p.Flag != nil && empty(p.Flag.Target) {
			return nil, fault.New(fault.Usage, "--%s has an empty value", p.Flag.Name).
				WithHint("Check for an unset shell variable, or leave out --%s.",
					p.Flag.Name)
		}
	}
	return k, nil
}

// empty reports whether a flag's value, or one of its values, is the empty string.
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

// withoutPasswords removes passwords from a message that quotes a misplaced connection string.
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

// Output returns standard output for writing a stream. It returns an error if that is a terminal,
// unless force is true.
func (env *Env) Output(force bool) (io.Writer, error) {
	if IsTerminal(env.Stdout) && !force {
		return nil, fault.New(fault.Usage, "standard output is a terminal").
			WithHint("The stream is binary. Pipe it into pgapply, or redirect it to a file. To print it anyway, add --force-terminal.")
	}
	return env.Stdout, nil
}

// Input returns standard input for reading a stream. It returns an error if that is a terminal.
func (env *Env) Input() (io.Reader, error) {
	if IsTerminal(env.Stdin) {
		return nil, fault.New(fault.Usage, "standard input is a terminal").
			WithHint("Pipe the output of pgextract or pgdecode into %s, or redirect a file to its input.", env.Name)
	}
	return env.Stdin, nil
}

// IsBrokenPipe reports whether an error means that the reader of our output has exited.
func IsBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
