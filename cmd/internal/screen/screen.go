// Package screen shares a terminal with other programs: programs of the same pipe, background
// programs of the same shell, and the shell itself. The programs do not know of each other, so none
// may depend on earlier output.
//
// A block is a set of bars, or a status that is repeatedly redrawn. It is drawn from the cursor
// down, in one write. The write first erases the old block, and at the end moves the cursor back to
// the block's first line, which is blank. So the output of any program replaces the block, from its
// left edge on, and the next drawing puts the block below that output. A message is also one write,
// and erases the rest of the block. This works even after the window changes its size.
//
// The package does not depend on what it shows.
package screen

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/term"
)

// A Terminal is a standard stream that is connected to a terminal.
type Terminal struct {
	f *os.File
	// The fields below are guarded by mu.
	mu    sync.Mutex
	shown bool // a block is below the cursor
}

// Of returns the terminal of a stream, or nil if the stream is not a terminal.
func Of(stream any) *Terminal {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &Terminal{f: f}
}

// Size returns the number of columns and rows.
func (t *Terminal) Size() (columns, rows int) {
	columns, rows, err := term.GetSize(int(t.f.Fd()))
	if err != nil || columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// erase moves the cursor to the left edge, and erases everything after the cursor.
const erase = "\r\x1b[J"

// Message returns lines in the form to write to a stream. It returns them unchanged if the stream
// is not a terminal.
func Message(stream io.Writer, lines []byte) []byte {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return lines
	}
	if foreground(f) {
		return append([]byte(erase), lines...)
	}
	// A user may be typing at a shell. Do not erase that text.
	return bytes.ReplaceAll(lines, []byte("\n"), []byte("\x1b[K\n"))
}

// current is the terminal to erase if the process exits at once.
var current atomic.Pointer[Terminal]

// Draw draws a block of lines in place of the last one. It draws nothing while the process is in
// the background of a shell, because the foreground process owns the terminal. A line wider than
// the terminal continues in the next row.
func (t *Terminal) Draw(lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !foreground(t.f) {
		t.shown = false
		return
	}
	columns, _ := t.Size()
	var b strings.Builder
	b.WriteString(erase)
	up := 0
	for _, l := range lines {
		b.WriteString("\n" + l)
		up += Rows(l, columns)
	}
	b.WriteString("\r" + strings.Repeat("\x1b[A", up))
	t.shown = true
	current.Store(t)
	_, _ = t.f.WriteString(b.String())
}

// Erase erases the block.
func (t *Terminal) Erase() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown && foreground(t.f) {
		_, _ = t.f.WriteString(erase)
	}
	t.shown = false
	current.CompareAndSwap(t, nil)
}

// Leave erases the process's block on the terminal before an immediate exit.
func Leave() {
	if t := current.Load(); t != nil && foreground(t.f) {
		_, _ = t.f.WriteString(erase)
	}
}
