package pgoutput_test

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgoutput"
)

// The beginning of a message says what Decode would make of it, or that it is too short to say so.
func TestBeginnings(t *testing.T) {
	d := &pgoutput.Decoder{Skip: func(schema string) bool { return schema == "hidden" }}
	for _, msg := range [][]byte{relation(1, "public", "t", 'd', "*a"), relation(2, "hidden", "t", 'd', "*a")} {
		if _, err := d.Decode(msg); err != nil {
			t.Fatal(err)
		}
	}
	message := pack('M', byte(1), uint64(0x90), "prefix", uint32(1000000), []byte("content"))
	at := len(message) - len("content")
	for n := range message {
		m, i, size := d.BeginMessage(message[:n])
		if (m != nil) != (n >= at) || m != nil &&
			(i != at || size != 1000000 || string(m.Prefix) != "prefix" || !m.Transactional ||
				m.LSN != 0x90) {
			t.Errorf("%d bytes: %+v, %d, %d", n, m, i, size)
		}
	}
	for _, test := range []struct {
		name             string
		msg              []byte
		always, skipping bool // is it not wanted
	}{
		{"insert", pack('I', uint32(1), 'N', tuple("1")), false, true},
		{"update", pack('U', uint32(1), 'N', tuple("1")), false, true},
		{"delete", pack('D', uint32(1), 'K', tuple("1")), false, true},
		{"insert that is left out", pack('I', uint32(2), 'N', tuple("1")), true, true},
		{"delete that is left out", pack('D', uint32(2), 'K', tuple("1")), true, true},
		// Decode says why
		{"insert into nothing", pack('I', uint32(3), 'N', tuple("1")), false, false},
		{"message", message, false, true},
		{"relation", relation(1, "public", "t", 'd', "*a"), false, false},
		{"too short", pack('I', uint16(1)), false, false},
		{"nothing", nil, false, false},
	} {
		if a, s := d.Unwanted(test.msg, false), d.Unwanted(test.msg, true); a != test.always || s != test.skipping {
			t.Errorf("%s: %t, and if skipped %t", test.name, a, s)
		}
	}
	if m, _, _ := d.BeginMessage(pack('I', uint32(1), 'N', tuple("1"))); m != nil {
		t.Errorf("an insert is %+v", m)
	}
	if _, err := d.Decode(pack('S', uint32(800), byte(1))); err != nil {
		t.Fatal(err)
	}
	if m, _, _ := d.BeginMessage(inBlock(805, message)); m == nil || m.XID != 805 {
		t.Errorf("in a block: %+v", m)
	}
	if !d.Unwanted(inBlock(805, pack('I', uint32(2), 'N', tuple("1"))), false) {
		t.Error("in a block, an insert that is left out is wanted")
	}
}
