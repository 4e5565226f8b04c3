package disk

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/s2"

	"github.com/tvixd/tvixd/castore"
)

// Compression chooses how new blocks are stored.
type Compression uint8

// The ways to compress. S2 is the default; it costs next to nothing on data
// that does not compress, which is stored raw.
const (
	CompressS2 Compression = iota
	CompressNone
)

const (
	// minSaving is the part of a block, as a shift, that compression must
	// save: below an eighth it costs more, at every read, than it brings.
	minSaving = 3
	// sampleSize is the length of the sample by which larger blocks are
	// judged first.
	sampleSize = 16 << 10
)

// compresses tells whether it is worth trying to compress a block.
func compresses(raw, scratch []byte) bool {
	if len(raw) < 4*sampleSize {
		return true
	}
	// From the middle: many files begin with tables unlike the rest.
	mid := len(raw) / 2
	return saves(len(s2.Encode(scratch, raw[mid:mid+sampleSize])), sampleSize)
}

func saves(encoded, raw int) bool { return encoded < raw-raw>>minSaving }

// encodeRecord returns a record that lacks only its place, in a buffer for
// putBuf.
func encodeRecord(kind Kind, table []tableEntry, raw []byte, c Compression) []byte {
	tableEnd := recordHeaderSize + len(table)*entrySize
	rec := getBuf(tableEnd + max(s2.MaxEncodedLen(len(raw)), len(raw)))
	for i := range table {
		e := rec[recordHeaderSize+i*entrySize:]
		copy(e, table[i].digest[:])
		binary.LittleEndian.PutUint64(e[castore.DigestSize:], table[i].length)
	}
	codec := uint8(codecRaw)
	// Recipes are digests: they never compress.
	if c == CompressS2 && kind != KindRecipe && compresses(raw, rec[tableEnd:]) {
		if enc := s2.Encode(rec[tableEnd:], raw); saves(len(enc), len(raw)) {
			codec = codecS2
			rec = rec[:tableEnd+len(enc)]
		}
	}
	if codec == codecRaw {
		rec = rec[:tableEnd+copy(rec[tableEnd:], raw)]
	}
	sealHeader(rec, kind, codec, len(table), len(raw))
	return rec
}

// block is a decoded record. It is shared by readers and never changes.
type block struct {
	kind  Kind
	table []tableEntry
	// ends are the offsets in data at which the objects end; nil for kinds
	// other than data.
	ends []uint32
	data []byte
}

// size is the memory that the block takes.
func (b *block) size() int64 {
	return int64(len(b.data)) + int64(len(b.table))*(entrySize+4) + 128
}

// object returns the bytes of the object in a slot, which must be that of the
// digest.
func (b *block) object(slot uint32, d castore.Digest) ([]byte, error) {
	if int(slot) >= len(b.table) || b.table[slot].digest != d {
		return nil, fmt.Errorf("%w: another object in its place", errFormat)
	}
	if b.kind != KindData {
		return b.data, nil
	}
	start := uint32(0)
	if slot > 0 {
		start = b.ends[slot-1]
	}
	return b.data[start:b.ends[slot]:b.ends[slot]], nil
}

// newBlock makes the block of a table and its decoded payload.
func newBlock(kind Kind, table []tableEntry, data []byte) *block {
	b := &block{kind: kind, table: table, data: data}
	if kind == KindData {
		b.ends = make([]uint32, len(table))
		end := uint32(0)
		for i := range table {
			end += uint32(table[i].length)
			b.ends[i] = end
		}
	}
	return b
}

// splitRecord parses a whole record and checks both sums, without decoding.
func splitRecord(rec []byte, saltShort uint64, offset int64) (h header, table []tableEntry, payload []byte, err error) {
	if h, err = parseHeader(rec, saltShort, offset); err != nil {
		return h, nil, nil, err
	}
	if int64(len(rec)) != h.length() {
		return h, nil, nil, fmt.Errorf("%w: record of %d bytes, not %d", errFormat, h.length(), len(rec))
	}
	if table, err = h.parseTable(rec[recordHeaderSize:h.tableEnd()]); err != nil {
		return h, nil, nil, err
	}
	payload = rec[h.tableEnd():]
	return h, table, payload, h.checkPayload(payload)
}

// decodeRecord checks and decodes a whole record. The block keeps nothing of
// rec. Decoded bytes go to dst if it is large enough.
func decodeRecord(rec []byte, saltShort uint64, offset int64, dst []byte) (*block, error) {
	h, table, payload, err := splitRecord(rec, saltShort, offset)
	if err != nil {
		return nil, err
	}
	data, err := decodePayload(&h, payload, dst)
	if err != nil {
		return nil, err
	}
	return newBlock(h.kind, table, data), nil
}

// decodePayload decodes a payload whose checksum is right.
func decodePayload(h *header, payload, dst []byte) ([]byte, error) {
	if cap(dst) < int(h.raw) {
		dst = make([]byte, h.raw)
	}
	dst = dst[:h.raw]
	if h.codec == codecRaw {
		copy(dst, payload)
		return dst, nil
	}
	if n, err := s2.DecodedLen(payload); err != nil || n != int(h.raw) {
		return nil, fmt.Errorf("%w: decoded length", errFormat)
	}
	data, err := s2.Decode(dst, payload)
	if err != nil {
		return nil, fmt.Errorf("decode payload: %w", err)
	}
	return data, nil
}
