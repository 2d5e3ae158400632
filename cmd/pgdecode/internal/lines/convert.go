package lines

import (
	"bytes"
	"errors"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

// A Charset converts text from the encoding of a database to UTF-8. It asks the server, and
// remembers the answers: the tables of other libraries are not the server's in every character.
type Charset struct {
	encoding string
	wide     bool // characters may have several bytes
	ask      func(characters [][]byte) ([]string, error)
	known    map[string]string // UTF-8 by character
}

var errByte = errors.New("a byte that the encoding of the source's database does not have")

// text returns text in UTF-8. In each encoding that a database can have, a byte below 128 is ASCII,
// also inside a character of several bytes: there is none.
func (c *Charset) text(text []byte) ([]byte, error) {
	first := bytes.IndexFunc(text, func(r rune) bool { return r >= 0x80 })
	if c == nil || first < 0 {
		return text, nil
	}
	if err := c.learn(text[first:]); err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(text)+len(text)/2), text[:first]...)
	for rest := text[first:]; len(rest) > 0; {
		n := c.size(rest)
		if n == 1 && rest[0] < 0x80 {
			out = append(out, rest[0])
		} else {
			out = append(out, c.known[string(rest[:n])]...)
		}
		rest = rest[n:]
	}
	return out, nil
}

// learn asks for the characters of a text that are not known.
func (c *Charset) learn(text []byte) error {
	var new [][]byte
	for rest := text; len(rest) > 0; {
		n := c.size(rest)
		if n > len(rest) {
			return errByte
		}
		if x := rest[:n]; x[0] >= 0x80 {
			if _, is := c.known[string(x)]; !is {
				c.known[string(x)] = ""
				new = append(new, slices.Clone(x))
			}
		}
		rest = rest[n:]
	}
	if new == nil {
		return nil
	}
	answers, err := c.ask(new)
	if err != nil {
		for _, x := range new {
			delete(c.known, string(x))
		}
		return err
	}
	for i, x := range new {
		c.known[string(x)] = answers[i]
	}
	return nil
}

// size returns the number of bytes of the first character, as the server's pg_encoding_mblen.
func (c *Charset) size(text []byte) int {
	switch b := text[0]; {
	case b < 0x80 || !c.wide:
		return 1
	case b == 0x8f && c.encoding != "EUC_CN":
		return 3
	case b == 0x8e && c.encoding == "EUC_TW":
		return 4
	}
	return 2
}

// convert returns a line in UTF-8. A message stays as it is: its size counts its bytes, and its
// content has no encoding.
func (d *Decoder) convert(line []byte) ([]byte, error) {
	if bytes.HasPrefix(line, []byte("message: ")) {
		return line, nil
	}
	return d.Charset.text(line)
}

func (d *Decoder) message(l *testdecoding.Line, lsn format.LSN, xid uint32, write func(format.Record) error) error {
	prefix, err := d.Charset.text(l.Prefix)
	if err != nil {
		return err
	}
	return write(&format.Message{Transactional: l.Transactional, LSN: lsn, Prefix: prefix, Content: l.Content, XID: xid})
}
