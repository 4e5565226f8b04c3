package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tvixd/tvixd/castore"
)

// Kind tells what a record holds.
type Kind uint8

// The kinds of records.
const (
	KindData     Kind = 1 // objects, one after the other
	KindRecipe   Kind = 2 // the chunks of a large blob
	KindPathInfo Kind = 3 // metadata of a store path, opaque here
)

const (
	packMagic      = "tvixpack"
	packVersion    = 1
	packHeaderSize = 64
	saltSize       = 16

	recordMagic      = 0x63727674 // "tvrc"
	recordHeaderSize = 48
	entrySize        = 40
	recipeEntrySize  = 40

	codecRaw = 0
	codecS2  = 1

	// maxEntries, maxRaw and maxStored bound what a header may claim. A
	// recipe of 64 MiB describes a blob of about 400 GB.
	maxEntries = 1 << 16
	maxRaw     = 64 << 20
	maxStored  = maxRaw
	// maxObject is the length of the largest object in a data block; maxChunk
	// that of a chunk.
	maxObject = 1 << 20
	maxChunk  = 512 << 10
)

var (
	errFormat   = errors.New("malformed record")
	errChecksum = errors.New("checksum mismatch")
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// salt distinguishes a pack from all others; see the package's documentation.
type salt [saltSize]byte

func (s salt) short() uint64 { return binary.LittleEndian.Uint64(s[:]) }

// encodePackHeader returns the first bytes of a pack.
func encodePackHeader(id uint32, s salt) []byte {
	b := make([]byte, packHeaderSize)
	copy(b, packMagic)
	binary.LittleEndian.PutUint32(b[8:], packVersion)
	binary.LittleEndian.PutUint64(b[16:], uint64(id))
	copy(b[24:], s[:])
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// decodePackHeader checks the first bytes of the pack id and returns its salt.
func decodePackHeader(b []byte, id uint32) (salt, error) {
	switch {
	case len(b) < packHeaderSize || string(b[:8]) != packMagic:
		return salt{}, fmt.Errorf("%w: not a pack", errFormat)
	case binary.LittleEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli):
		return salt{}, fmt.Errorf("pack header: %w", errChecksum)
	case binary.LittleEndian.Uint32(b[8:]) != packVersion:
		return salt{}, fmt.Errorf("%w: pack version %d", errFormat, binary.LittleEndian.Uint32(b[8:]))
	case binary.LittleEndian.Uint64(b[16:]) != uint64(id):
		return salt{}, fmt.Errorf("%w: header of pack %d", errFormat, binary.LittleEndian.Uint64(b[16:]))
	}
	return salt(b[24 : 24+saltSize]), nil
}

// tableEntry is one object in the table of a record.
type tableEntry struct {
	digest castore.Digest
	length uint64
}

// header is the fixed part of a record.
type header struct {
	kind    Kind
	codec   uint8
	salt    uint64
	offset  uint64
	count   uint32
	raw     uint32
	stored  uint32
	paysum  uint32
	tabsum  uint32
	rawHead [recordHeaderSize - 4]byte
}

// length is that of the whole record.
func (h *header) length() int64 {
	return recordHeaderSize + int64(h.count)*entrySize + int64(h.stored)
}

// tableEnd is the offset of the payload in the record.
func (h *header) tableEnd() int64 { return recordHeaderSize + int64(h.count)*entrySize }

// sealHeader writes the header of a record whose table and payload are in place
// already, at the beginning of rec. Salt, offset and sum are placed later, by
// placeRecord.
func sealHeader(rec []byte, kind Kind, codec uint8, count, raw int) {
	payload := rec[recordHeaderSize+count*entrySize:]
	binary.LittleEndian.PutUint32(rec[0:], recordMagic)
	rec[4], rec[5], rec[6], rec[7] = byte(kind), codec, 0, 0
	binary.LittleEndian.PutUint32(rec[24:], uint32(count))
	binary.LittleEndian.PutUint32(rec[28:], uint32(raw))
	binary.LittleEndian.PutUint32(rec[32:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(rec[36:], crc32.Checksum(payload, castagnoli))
	binary.LittleEndian.PutUint32(rec[40:], 0)
}

// placeRecord completes a record for its place in a pack.
func placeRecord(rec []byte, s salt, offset int64) {
	binary.LittleEndian.PutUint64(rec[8:], s.short())
	binary.LittleEndian.PutUint64(rec[16:], uint64(offset))
	count := int(binary.LittleEndian.Uint32(rec[24:]))
	binary.LittleEndian.PutUint32(rec[44:], headSum(rec[:44], rec[recordHeaderSize:recordHeaderSize+count*entrySize]))
}

func headSum(head, table []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, table)
}

// parseHeader reads the fixed part of a record at an offset of a pack. It
// checks everything but the sums, for which the table is needed.
func parseHeader(b []byte, saltShort uint64, offset int64) (header, error) {
	if len(b) < recordHeaderSize || binary.LittleEndian.Uint32(b) != recordMagic {
		return header{}, fmt.Errorf("%w: no record here", errFormat)
	}
	h := header{
		kind:   Kind(b[4]),
		codec:  b[5],
		salt:   binary.LittleEndian.Uint64(b[8:]),
		offset: binary.LittleEndian.Uint64(b[16:]),
		count:  binary.LittleEndian.Uint32(b[24:]),
		raw:    binary.LittleEndian.Uint32(b[28:]),
		stored: binary.LittleEndian.Uint32(b[32:]),
		paysum: binary.LittleEndian.Uint32(b[36:]),
		tabsum: binary.LittleEndian.Uint32(b[44:]),
	}
	copy(h.rawHead[:], b)
	switch {
	case h.salt != saltShort || h.offset != uint64(offset):
		return header{}, fmt.Errorf("%w: record of another place", errFormat)
	case h.kind < KindData || h.kind > KindPathInfo || h.codec > codecS2:
		return header{}, fmt.Errorf("%w: kind %d, codec %d", errFormat, h.kind, h.codec)
	case h.count == 0 || h.count > maxEntries || h.raw > maxRaw || h.stored > maxStored:
		return header{}, fmt.Errorf("%w: sizes out of bounds", errFormat)
	case h.kind != KindData && h.count != 1:
		return header{}, fmt.Errorf("%w: %d entries in kind %d", errFormat, h.count, h.kind)
	case h.codec == codecRaw && h.raw != h.stored:
		return header{}, fmt.Errorf("%w: raw payload of another length", errFormat)
	}
	return h, nil
}

// parseTable checks and reads the table that follows a header.
func (h *header) parseTable(b []byte) ([]tableEntry, error) {
	if len(b) != int(h.count)*entrySize {
		return nil, fmt.Errorf("%w: table cut off", errFormat)
	}
	if headSum(h.rawHead[:], b) != h.tabsum {
		return nil, fmt.Errorf("record header: %w", errChecksum)
	}
	table := make([]tableEntry, h.count)
	var total uint64
	for i := range table {
		e := b[i*entrySize:]
		table[i] = tableEntry{castore.Digest(e[:castore.DigestSize]), binary.LittleEndian.Uint64(e[castore.DigestSize:])}
		if h.kind == KindData {
			if table[i].length > maxRaw {
				return nil, fmt.Errorf("%w: object too long", errFormat)
			}
			total += table[i].length
		}
	}
	if h.kind == KindData && total != uint64(h.raw) {
		return nil, fmt.Errorf("%w: lengths do not add up", errFormat)
	}
	return table, nil
}

// checkPayload compares the payload with its checksum.
func (h *header) checkPayload(payload []byte) error {
	if len(payload) != int(h.stored) {
		return fmt.Errorf("%w: payload cut off", errFormat)
	}
	if crc32.Checksum(payload, castagnoli) != h.paysum {
		return fmt.Errorf("payload: %w", errChecksum)
	}
	return nil
}
