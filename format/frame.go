package format

import (
	"encoding/binary"
	"hash/crc32"
)

// Version is the format version that this package reads and writes. Minor is the newest minor
// version that it supports.
const (
	Version = 1
	Minor   = 3
)

const (
	// maxFrame bounds a frame's body, and so the memory that a damaged length can cost. The Writer
	// splits a longer record into pieces.
	maxFrame = 1 << 20
	// maxRecord bounds a record's body. A row is never longer than a server's 1 GB message; the
	// rest is our own overhead.
	maxRecord = 1<<30 + maxFrame
	// maxHeader bounds a header's body, for all versions of the format.
	maxHeader = 1<<16 - 1

	frameArray = 0x93
	crcMarker  = 0xce
	headMin    = 9  // array, kind, crc, bin 8
	headMax    = 12 // the same with bin 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// kindCRC has the checksum of each kind byte. A frame's checksum continues from it over the body.
var kindCRC = func() (t [maxKind + 1]uint32) {
	for k := range t {
		t[k] = crc32.Update(0, castagnoli, []byte{byte(k)})
	}
	return t
}()

func frameCRC(k Kind, body []byte) uint32 { return crc32.Update(kindCRC[k], castagnoli, body) }

// appendFrameHead appends a frame without its body.
func appendFrameHead(b []byte, k Kind, crc uint32, n int) []byte {
	b = append(b, frameArray, byte(k), crcMarker)
	return appendBinLen(binary.BigEndian.AppendUint32(b, crc), n)
}

// A frameHead is a parsed frame header.
type frameHead struct {
	kind Kind
	crc  uint32
	size int // of the head itself
	body int // length of the body
}

// parseHead parses the head at the front of b. It returns errShort if b may be the beginning of a
// head; h.size is then the number of bytes of b that it needs.
func parseHead(b []byte) (h frameHead, err error) {
	if len(b) > 0 && b[0] != frameArray || len(b) > 1 && (b[1] == 0 || b[1] > byte(maxKind)) || len(b) > 2 && b[2] != crcMarker {
		return h, errHead
	}
	if len(b) < headMin {
		return h, errShort
	}
	h.kind = Kind(b[1])
	h.crc = binary.BigEndian.Uint32(b[3:])
	switch b[7] {
	case 0xc4:
		h.size, h.body = headMin, int(b[8])
	case 0xc5:
		h.size = headMin + 1
		if len(b) < h.size {
			return h, errShort
		}
		h.body = int(binary.BigEndian.Uint16(b[8:]))
	case 0xc6:
		h.size = headMax
		if len(b) < h.size {
			return h, errShort
		}
		n := binary.BigEndian.Uint32(b[8:])
		if n > maxFrame || n > maxHeader && h.kind == KindHeader {
			return h, ErrTooLarge
		}
		h.body = int(n)
	default:
		return h, errHead
	}
	return h, nil
}
