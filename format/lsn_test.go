package format_test

import (
	"encoding/json"
	"flag"
	"math"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/format"
)

func TestLSN(t *testing.T) {
	tests := []struct {
		lsn  format.LSN
		text string
	}{
		{0, "0/0"},
		{1, "0/1"},
		{0xf, "0/F"},
		{0x10, "0/10"},
		{0xffffffff, "0/FFFFFFFF"},
		{1 << 32, "1/0"},
		{0x16_b374d848, "16/B374D848"},
		{0x10000000_00000001, "10000000/1"},
		{math.MaxUint64, "FFFFFFFF/FFFFFFFF"},
	}
	for _, test := range tests {
		if got := test.lsn.String(); got != test.text {
			t.Errorf("%d prints %s, want %s", uint64(test.lsn), got, test.text)
		}
		if got, err := format.ParseLSN(test.text); err != nil || got != test.lsn {
			t.Errorf("%s parses as %d, %v; want %d", test.text, uint64(got), err, uint64(test.lsn))
		}
		if got := string(test.lsn.Append([]byte("at "))); got != "at "+test.text {
			t.Errorf("appended: %q", got)
		}
	}
}

// What a person may write, although it is not what String prints.
func TestParseLSNLoose(t *testing.T) {
	for text, want := range map[string]format.LSN{
		"16/b374d848":       0x16_b374d848,
		"00000016/B374D848": 0x16_b374d848,
		"0/0000000a":        10,
		"00000000/00000000": 0,
	} {
		if got, err := format.ParseLSN(text); err != nil || got != want {
			t.Errorf("%s parses as %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestParseLSNStrict(t *testing.T) {
	for _, text := range []string{
		"", "/", "0", "0/", "/0", "//", "0//0", "0/0/0", "0/0/",
		"0/1garbage", "garbage0/1", "1FFFFFFFF/0", "0/1FFFFFFFF", "000000001/0", "0/000000001",
		" 0/1", "0/1 ", "0 /1", "0/ 1", "0/1\n", "\t0/1",
		"+1/2", "1/+2", "-1/2", "1/-2", "0x1/2", "1/0x2", "1_0/2", "1/2_0", "1.0/2", "1e3/g",
		"0\x00/1", "0/1\x00", "٣/٣", "0∕1", "16\\B374D848", "16-B374D848", "96837331016",
	} {
		if got, err := format.ParseLSN(text); err == nil || got != 0 {
			t.Errorf("%q parses as %v, %v", text, got, err)
		}
	}
	_, err := format.ParseLSN("0/1garbage")
	if got, want := err.Error(), `invalid LSN "0/1garbage": expected two hexadecimal numbers like 16/B374D848`; got != want {
		t.Errorf("error is %s, want %s", got, want)
	}
}

// An LSN can stand in JSON and be a flag.
func TestLSNText(t *testing.T) {
	type row struct{ LSN format.LSN }
	b, err := json.Marshal(row{0x16_b374d848})
	must(t, err)
	if got, want := string(b), `{"LSN":"16/B374D848"}`; got != want {
		t.Errorf("JSON is %s, want %s", got, want)
	}
	var r row
	must(t, json.Unmarshal(b, &r))
	if r.LSN != 0x16_b374d848 {
		t.Errorf("read %v", r.LSN)
	}
	if err := json.Unmarshal([]byte(`{"LSN":"0/1garbage"}`), &r); err == nil {
		t.Error("garbage was read")
	}
	var lsn format.LSN
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.TextVar(&lsn, "end-lsn", lsn, "")
	must(t, flags.Parse([]string{"-end-lsn", "1/A"}))
	if lsn != 1<<32+10 {
		t.Errorf("flag is %v", lsn)
	}
}

func TestTime(t *testing.T) {
	tests := []struct {
		in   time.Time
		want format.Time
	}{
		{time.Unix(0, 0), 0},
		{time.Unix(0, 1999), 1},
		{time.Unix(-1, 0), -1_000_000},
		{time.Date(2023, 11, 14, 23, 13, 20, 123456789, time.FixedZone("CET", 3600)), 1700000000123456},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), 253402300799000000},
	}
	for _, test := range tests {
		got := format.TimeOf(test.in)
		if got != test.want {
			t.Errorf("%v is %d, want %d", test.in, got, test.want)
		}
		if back := got.Time(); !back.Equal(test.in.Truncate(time.Microsecond)) || back.Location() != time.UTC {
			t.Errorf("%v comes back as %v", test.in, back)
		}
	}
}
