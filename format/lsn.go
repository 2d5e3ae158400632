package format

import (
	"fmt"
	"strconv"
	"time"
)

// LSN is a position in the source's write-ahead log. Zero means "none".
type LSN uint64

// String returns the LSN as PostgreSQL prints it: two hexadecimal halves, "16/B374D848".
func (l LSN) String() string {
	var b [17]byte
	return string(l.Append(b[:0]))
}

// Append appends the result of String to b.
func (l LSN) Append(b []byte) []byte {
	b = appendHex(b, uint32(l>>32))
	b = append(b, '/')
	return appendHex(b, uint32(l))
}

func appendHex(b []byte, v uint32) []byte {
	const digits = "0123456789ABCDEF"
	started := false
	for shift := 28; shift >= 0; shift -= 4 {
		d := v >> shift & 15
		if d != 0 || started || shift == 0 {
			b = append(b, digits[d])
			started = true
		}
	}
	return b
}

// ParseLSN parses two hexadecimal halves of one to eight digits each. It rejects spaces, signs and
// trailing text.
func ParseLSN(s string) (LSN, error) {
	for i := range len(s) {
		if s[i] != '/' {
			continue
		}
		hi, err1 := parseHalf(s[:i])
		lo, err2 := parseHalf(s[i+1:])
		if err1 == nil && err2 == nil {
			return LSN(hi)<<32 | LSN(lo), nil
		}
		break
	}
	return 0, fmt.Errorf("invalid LSN %q: expected two hexadecimal numbers like 16/B374D848", s)
}

func parseHalf(s string) (uint64, error) {
	// ParseUint accepts no sign, and underscores only with base 0. It does not limit the length.
	if len(s) == 0 || len(s) > 8 {
		return 0, strconv.ErrRange
	}
	return strconv.ParseUint(s, 16, 32)
}

// MarshalText and UnmarshalText give an LSN its printed form in flags and JSON.
func (l LSN) MarshalText() ([]byte, error) { return l.Append(nil), nil }

// UnmarshalText parses the result of MarshalText.
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Time is a point in time in microseconds since 1970-01-01 00:00 UTC. Zero means "unknown".
type Time int64

// TimeOf converts t, truncated to a microsecond.
func TimeOf(t time.Time) Time { return Time(t.UnixMicro()) }

// Time converts t to the standard library's type, in UTC.
func (t Time) Time() time.Time { return time.UnixMicro(int64(t)).UTC() }
