//go:build !linux

package pgdial

import "net"

// A Gulp is a plain connection where the system offers nothing better; see gulp_linux.go.
type Gulp struct{ net.Conn }

func newGulp(c net.Conn) (*Gulp, error) { return &Gulp{c}, nil }

// SetBehind says whether there is a backlog to read.
func (g *Gulp) SetBehind(bool) {}

// Breathe does nothing.
func (g *Gulp) Breathe() {}

// Buffered reports whether Read would return at once without asking the socket.
func (g *Gulp) Buffered() bool { return false }

func (g *Gulp) expectAnswers() {}
