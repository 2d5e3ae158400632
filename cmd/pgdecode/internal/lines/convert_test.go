package lines

import (
	"errors"
	"strings"
	"testing"
)

// Characters of several bytes are found as the server finds them, and each is asked for once.
func TestCharset(t *testing.T) {
	var asked []string
	fails := errors.New("no")
	c := &Charset{encoding: "EUC_TW", wide: true, known: make(map[string]string)}
	c.ask = func(list [][]byte) ([]string, error) {
		var texts []string
		for _, x := range list {
			if x[0] == 0xff {
				return nil, fails
			}
			asked = append(asked, string(x))
			texts = append(texts, "<"+string(x)+">")
		}
		return texts, nil
	}
	for _, x := range []struct {
		in, out, asks string
	}{
		{"plain", "plain", ""},
		{"a\xc4\xa1b\xc4\xa1\xc5\xa1", "a<\xc4\xa1>b<\xc4\xa1><\xc5\xa1>", "\xc4\xa1 \xc5\xa1"},
		{"\x8e\xa2\xa1\xa1'\xc4\xa1", "<\x8e\xa2\xa1\xa1>'<\xc4\xa1>", "\x8e\xa2\xa1\xa1"},
		{"\x8f\xa2\xa1", "<\x8f\xa2\xa1>", "\x8f\xa2\xa1"},
	} {
		asked = nil
		if out, err := c.text([]byte(x.in)); string(out) != x.out || err != nil || strings.Join(asked, " ") != x.asks {
			t.Errorf("%q: %q, %v, asked for %q", x.in, out, err, asked)
		}
	}
	if out, err := c.text([]byte("a\x8e\xa2")); !errors.Is(err, errByte) {
		t.Errorf("a part of a character is %q, %v", out, err)
	}
	for range 2 { // a failure is not remembered as an answer
		if out, err := c.text([]byte("\xff\xa1")); !errors.Is(err, fails) {
			t.Errorf("%q, %v", out, err)
		}
	}
	c.encoding = "EUC_CN"
	if n := c.size([]byte("\x8e\xa2")); n != 2 {
		t.Errorf("%d bytes", n)
	}
	c.wide = false
	if n := c.size([]byte("\xe9")); n != 1 {
		t.Errorf("%d bytes", n)
	}
	if out, err := (*Charset)(nil).text([]byte("\xe9")); string(out) != "\xe9" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}
