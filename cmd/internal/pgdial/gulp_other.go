//go:build !linux

package pgdial

import "net"

// A Gulp is a plain connection on systems other than Linux; see gulp_linux.go.
type Gulp struct{ net.Conn }

func newGulp(c net.Conn) (*Gulp, error) { return &Gulp{c}, nil }

// SetBehind says whether a backlog is to be read.
func (g *Gulp) SetBehind(bool) {}

// Breathe does nothing.
func (g *Gulp) Breathe() {}

// Buffered reports whether Read can return data without a system call.
func (g *Gulp) Buffered() bool { return false }

func (g *Gulp) expectAnswers() {}
