// Package screen shares a terminal with other programs: those of the same pipe, those in the
// background of the same shell, and the shell itself. They know nothing of each other, so nobody
// may depend on what was written before:
//
// A block, which is bars or a status that is shown again and again, is drawn from the cursor down,
// in one write. It begins with erasing what is there, and ends with moving the cursor back to its
// first line, which is blank. So whatever anybody writes takes the block's place, from its left
// edge on, and the block is drawn again below that. A message is one write, too, and erases what it
// does not cover. A window that gets another size changes nothing of that.
//
// The package does not know what is shown.
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

// A Terminal is a standard stream that is a terminal.
type Terminal struct {
	f *os.File
	// What follows is guarded by mu.
	mu    sync.Mutex
	shown bool // a block is below the cursor
}

// Of returns the terminal that a stream is, nil if it is none.
func Of(stream any) *Terminal {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &Terminal{f: f}
}

// Size returns how many columns and rows there are.
func (t *Terminal) Size() (columns, rows int) {
	columns, rows, err := term.GetSize(int(t.f.Fd()))
	if err != nil || columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// erase brings the cursor to the left edge, and erases everything from there on.
const erase = "\r\x1b[J"

// Message returns lines as they are to be written to a stream: unchanged, if that is no terminal.
func Message(stream io.Writer, lines []byte) []byte {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return lines
	}
	if foreground(f) {
		return append([]byte(erase), lines...)
	}
	// There may be a shell that somebody is typing at. What is there is not ours to take away.
	return bytes.ReplaceAll(lines, []byte("\n"), []byte("\x1b[K\n"))
}

// current is what has to be erased should the process end at once.
var current atomic.Pointer[Terminal]

// Draw shows a block of lines, in place of the last one. It shows nothing while the process is in
// the background of a shell: what is in the foreground has the terminal. Lines that are longer
// than the terminal is wide go on in the next row.
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

// Erase takes the block away.
func (t *Terminal) Erase() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown && foreground(t.f) {
		_, _ = t.f.WriteString(erase)
	}
	t.shown = false
	current.CompareAndSwap(t, nil)
}

// Leave takes away what a process that ends at once has on the terminal.
func Leave() {
	if t := current.Load(); t != nil && foreground(t.f) {
		_, _ = t.f.WriteString(erase)
	}
}
