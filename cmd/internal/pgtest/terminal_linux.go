package pgtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A Terminal is a pseudo-terminal with a model of its screen.
type Terminal struct {
	TTY *os.File // the programs' side

	t      testing.TB
	master *os.File
	mu     sync.Mutex // guards the fields below
	raw    bytes.Buffer
	rest   []byte // of an incomplete control sequence or character
	size   struct{ columns, rows int }
	lines  [][]rune // all lines, with the scrollback
	top    int      // index of the screen's first line
	row    int      // the cursor's line, from the top
	column int
}

// OpenTerminal opens a pseudo-terminal of the given size.
func OpenTerminal(t testing.TB, columns, rows int) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := &Terminal{t: t, master: master}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		x.TTY, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = x.TTY.Close(), master.Close() })
	x.Resize(columns, rows)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			x.take(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return x
}

// Resize changes the size of the terminal.
func (x *Terminal) Resize(columns, rows int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.size.columns, x.size.rows = columns, rows
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ,
		&unix.Winsize{Row: uint16(rows), Col: uint16(columns)}); err != nil {
		x.t.Error(err)
	}
}

// Start starts bash with a script, in a new session whose controlling terminal is x.
func (x *Terminal) Start(e *Env, script string, args ...string) *Process {
	x.t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		x.t.Fatal(err)
	}
	p := &Process{Cmd: exec.Command(bash, append([]string{"-c", script, "bash"}, args...)...), t: x.t,
		name: "bash", done: make(chan struct{})}
	p.Stdin, p.Stdout, p.Stderr, p.Dir = x.TTY, x.TTY, x.TTY, filepath.Clean(Root())
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p.Env = append(e.environ(), e.Vars...)
	p.begin()
	return p
}

// Type sends keystrokes; "\x03" is Ctrl-C.
func (x *Terminal) Type(s string) {
	x.t.Helper()
	if _, err := x.master.WriteString(s); err != nil {
		x.t.Error(err)
	}
}

// Written returns everything that was written, with control sequences.
func (x *Terminal) Written() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.raw.String()
}

// All returns the lines with the scrollback, without blank ones.
func (x *Terminal) All() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return text(x.lines)
}

// Screen returns the lines on the screen, without blank ones.
func (x *Terminal) Screen() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return text(x.lines[min(x.top, len(x.lines)):])
}

func text(lines [][]rune) (list []string) {
	for _, l := range lines {
		if s := strings.TrimRight(string(l), " "); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// take processes bytes that a program wrote.
func (x *Terminal) take(b []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.raw.Write(b)
	x.rest = append(x.rest, b...)
	for len(x.rest) > 0 {
		n := x.obey(x.rest)
		if n == 0 {
			return
		}
		x.rest = x.rest[n:]
	}
}

// obey processes one character or control sequence and returns its length, 0 if it is incomplete.
func (x *Terminal) obey(b []byte) int {
	switch b[0] {
	case '\r':
		x.column = 0
	case '\n':
		x.down()
	case '\b':
		x.column = max(x.column-1, 0)
	case 0x1b:
		return x.sequence(b)
	default:
		if !utf8.FullRune(b) {
			return 0
		}
		r, n := utf8.DecodeRune(b)
		if x.column >= x.size.columns {
			x.column = 0
			x.down()
		}
		x.at(x.column + 1)[x.column] = r
		x.column++
		return n
	}
	return 1
}

// at returns the cursor's line, with at least n characters.
func (x *Terminal) at(n int) []rune {
	i := x.top + x.row
	for len(x.lines) <= i {
		x.lines = append(x.lines, nil)
	}
	for len(x.lines[i]) < n {
		x.lines[i] = append(x.lines[i], ' ')
	}
	return x.lines[i]
}

func (x *Terminal) down() {
	if x.row++; x.row >= x.size.rows {
		x.top += x.row - x.size.rows + 1
		x.row = x.size.rows - 1
	}
	x.at(0)
}

// sequence processes a control sequence. An unknown one fails the test.
func (x *Terminal) sequence(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	end := bytes.IndexFunc(b[2:], func(r rune) bool { return r >= '@' && r <= '~' })
	if b[1] != '[' {
		x.t.Errorf("the terminal is told to do %q", b)
		return 2
	}
	if end < 0 {
		return 0
	}
	arg, command := string(b[2:2+end]), b[2+end]
	n, _ := strconv.Atoi(arg)
	switch {
	case command == 'A':
		x.row = max(x.row-max(n, 1), 0)
	case command == 'K' && n == 0:
		x.cut()
	case command == 'J' && n == 0:
		x.cut()
		x.lines = x.lines[:x.top+x.row+1]
	default:
		x.t.Errorf("the terminal is told to do %q", b[:3+end])
	}
	return 3 + end
}

// cut erases the line from the cursor to its end.
func (x *Terminal) cut() {
	if l := x.at(0); len(l) > x.column {
		x.lines[x.top+x.row] = l[:x.column]
	}
}
