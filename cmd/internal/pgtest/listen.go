package pgtest

import (
	"net"
	"testing"
)

// Listen takes connections until the test ends, and serves each in a goroutine of its own. serve
// closes the connection. Listen returns the address, as host:port.
func Listen(t testing.TB, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}
