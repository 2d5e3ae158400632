package extract

import "testing"

func TestToken(t *testing.T) {
	for _, s := range []string{"00000003-0000001B-1@16/B374D848.1207", "a@0/0.3:1=2", "a@0/1.4294967296:4294967295=9000000000,7=0",
		"a@0/0.3:;16=1.0.0.16@/17", "a@0/0.3:1=2;16=1.0.0.16@5/17,17=1.2.3.0@5/17"} {
		tok, err := parseToken(s)
		if err != nil || tok.String() != s {
			t.Errorf("%s: %v, %v", s, tok, err)
		}
	}
	for _, s := range []string{"", "a", "@0/0", "a@0", "a@0/0", "a@0/0:1=2", "a@0/0.x", "a@0/0.3:x=1",
		"a@0/0.3:1", "a@0/0.3:1=-1", "a@0/0.3:99999999999=1", "a@0/0.3:;16", "a@0/0.3:;16=1.2.3@/1"} {
		if tok, err := parseToken(s); err == nil {
			t.Errorf("%s: %v", s, tok)
		}
	}
}

func TestParsePart(t *testing.T) {
	if i, n, err := ParsePart("2/3"); i != 2 || n != 3 || err != nil {
		t.Error(i, n, err)
	}
	for _, s := range []string{"", "1", "0/1", "2/1", "a/b", "1/2/3", "-1/2"} {
		if i, n, err := ParsePart(s); err == nil {
			t.Errorf("%s: %d %d", s, i, n)
		}
	}
}
