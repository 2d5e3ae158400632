package format_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// Errors say what is wrong and where. Their texts are read by people at night, so they are asserted
// word by word.
func TestErrorTexts(t *testing.T) {
	start := join(header("changes", "start_lsn", 0x10), relation(1, 2))
	tx := join(frame(format.KindBegin, pack(array{7, 0x20, 0})),
		frame(format.KindInsert, pack(array{1, array{"a", nil}})),
		frame(format.KindCommit, pack(array{0x20, uint64(0x16_b374d848), 0})))
	flip := func(b []byte) []byte { return append(bytes.Clone(b[:len(b)-1]), b[len(b)-1]^1) }
	tests := []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, "stream is truncated: the input is empty (frame 0, byte 0)"},
		{"not a stream", []byte("hello"), "not a pgsluice stream (frame 0, byte 0)"},
		{"cut in the header", start[:30], "stream is truncated (frame 0, byte 0)"},
		{"no end", start, "stream is truncated (frame 2, byte 172, after LSN 0/10)"},
		{"no end after a transaction", join(start, tx), "stream is truncated (frame 5, byte 221, after LSN 16/B374D848)"},
		{"cut in a transaction", join(start, tx[:25]), "stream is truncated (frame 3, byte 185, after LSN 0/10)"},
		{"checksum", join(start, tx, flip(relation(2, 1))), "stream is damaged: wrong checksum (frame 5, byte 221, after LSN 16/B374D848)"},
		{"too large", join(start, []byte("\x93\x0d\xce1234\xc6\x7f\xff\xff\xff")),
			"stream is damaged: too large (frame 2, byte 172, after LSN 0/10)"},
		{"body", join(start, frame(format.KindBegin, pack(array{7, 8}))),
			"stream is damaged: begin record: body ends too early (frame 2, byte 172, after LSN 0/10)"},
		{"a map's field", join(start, frame(format.KindRelation, object("id", "x"))),
			"stream is damaged: relation record: id: value of a wrong type (frame 2, byte 172, after LSN 0/10)"},
		{"order", join(start, tx[13:]), "stream is damaged: insert record: not in a transaction (frame 2, byte 172, after LSN 0/10)"},
		{"frames", join(start, end(5)),
			"stream is damaged: end record: 5 frames were announced, 2 were there (frame 2, byte 172, after LSN 0/10)"},
		{"unknown kind", join(start, frame(40, []byte{0xc0})),
			"record of unknown kind 40 cannot be skipped: a program that reads format version 1.0 is needed, this one reads 1.3 (frame 2, byte 172, after LSN 0/10)"},
		{"a second stream", join(start, end(2), header("load"), relation(1, 1), frame(format.KindCopyEnd, pack(array{5, 0, 0}))),
			"stream is damaged: copy-end record: part 5 is not open (frame 2, byte 348)"},
		{"garbage after the end", join(start, tx, end(5), []byte("garbage")),
			"stream is damaged: no frame where one must begin (frame 6, byte 255, after LSN 16/B374D848)"},
		{"a torn stream", join(start, tx[:25], header("changes"), []byte("garbage")),
			"stream is damaged: no frame where one must begin (frame 1, byte 282)"},
		{"long record", join(start, frame(format.KindContinued, []byte{1}),
			frame(format.KindContinued, []byte{1}), []byte("x")),
			"stream is damaged: no frame where one must begin (frame 4, byte 192, after LSN 0/10)"},
		{"input", nil, "cable cut (frame 0, byte 0)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := io.Reader(bytes.NewReader(test.in))
			if test.name == "input" {
				in = &dataThenError{nil, errCable}
			}
			_, err := read(in)
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

// Which errors are which. Callers branch on this, and exit statuses rest on it.
func TestErrorKinds(t *testing.T) {
	all := map[string]error{"not stream": format.ErrNotStream, "empty": format.ErrEmpty,
		"truncated": format.ErrTruncated, "corrupt": format.ErrCorrupt, "too large": format.ErrTooLarge}
	is := map[string][]string{"empty": {"truncated"}, "too large": {"corrupt"}}
	for name, err := range all {
		for other, target := range all {
			want := name == other
			for _, also := range is[name] {
				want = want || other == also
			}
			if got := errors.Is(&format.Error{Err: err}, target); got != want {
				t.Errorf("%s is %s: %t", name, other, got)
			}
		}
	}
}

func TestUnknownKinds(t *testing.T) {
	for k := format.Kind(25); k < 128; k++ {
		if k == format.KindProgress || k == format.KindFingerprint {
			continue
		}
		// a body is not looked into
		rec := frame(k, pack(array{"anything", object("x", nested(100))}))
		in := join(header("changes", "minor", 3), rec, end(2))
		got, err := readBytes(in)
		if k.Ignorable() {
			must(t, err)
			if u, ok := got[1].(*format.Unknown); !ok || u.K != k || u.Kind() != k || !bytes.Equal(frame(k, u.Body), rec) {
				t.Errorf("kind %d is %+v", k, got[1])
			}
			h := clone(got[0]).(*format.Header)
			n := len(write(t, h))
			if b := write(t, h, got[1]); !bytes.Equal(b[n:], rec) {
				t.Errorf("kind %d is forwarded as %x, was %x", k, b[n:], rec)
			}
			continue
		}
		var unknown *format.UnknownKindError
		if !errors.As(err, &unknown) || unknown.Kind != k || unknown.Minor != 3 || errors.Is(err, format.ErrCorrupt) {
			t.Errorf("kind %d: %v", k, err)
		}
		in[len(in)-len(end(2))-1] ^= 1
		if _, err := readBytes(in); !errors.Is(err, format.ErrCorrupt) || errors.As(err, &unknown) && unknown == nil {
			t.Errorf("kind %d, damaged: %v", k, err)
		}
	}
}

// The reason of an order error can be had without parsing its text.
func TestOrderError(t *testing.T) {
	_, err := readBytes(join(header("changes"), frame(format.KindCommit, pack(array{1, 2, 3}))))
	var order *format.OrderError
	if !errors.As(err, &order) || order.Kind != format.KindCommit || order.Reason != "not in a transaction" ||
		!errors.Is(err, format.ErrCorrupt) {
		t.Errorf("got %v, %+v", err, order)
	}
	var where *format.Error
	if !errors.As(err, &where) || where.Frame != 1 || where.Offset != int64(len(header("changes"))) || where.LSN != 0 {
		t.Errorf("got %+v", where)
	}
}
