package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

// record returns a placed record of the given objects.
func record(kind Kind, c Compression, at int64, objects ...[]byte) []byte {
	var table []tableEntry
	for _, o := range objects {
		table = append(table, tableEntry{castore.Sum(o), uint64(len(o))})
	}
	rec := bytes.Clone(encodeRecord(kind, table, slices.Concat(objects...), c))
	placeRecord(rec, testSalt, at)
	return rec
}

var testSalt = salt{1, 2, 3, 4, 5, 6, 7, 8, 9}

func TestRecordRoundTrip(t *testing.T) {
	tests := []struct {
		name    string
		kind    Kind
		c       Compression
		objects [][]byte
		codec   uint8
	}{
		{"raw", KindData, CompressNone, [][]byte{prose(5000, 1)}, codecRaw},
		{"compressed", KindData, CompressS2, [][]byte{prose(5000, 1), []byte("x"), prose(100, 2)}, codecS2},
		{"does not compress", KindData, CompressS2, [][]byte{noise(5000, 1)}, codecRaw},
		{"recipe", KindRecipe, CompressS2, [][]byte{make([]byte, 4000)}, codecRaw},
		{"path info", KindPathInfo, CompressS2, [][]byte{prose(5000, 1)}, codecS2},
		{"empty path info", KindPathInfo, CompressS2, [][]byte{nil}, codecRaw},
		{"largest object", KindData, CompressS2, [][]byte{noise(maxObject, 1)}, codecRaw},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := record(test.kind, test.c, 64, test.objects...)
			if rec[5] != test.codec {
				t.Errorf("codec %d, want %d", rec[5], test.codec)
			}
			b, err := decodeRecord(rec, testSalt.short(), 64, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range test.objects {
				got, err := b.object(uint32(i), castore.Sum(o))
				if err != nil || !bytes.Equal(got, o) {
					t.Errorf("object %d: %v", i, err)
				}
			}
			if _, err := b.object(uint32(len(test.objects)), castore.Digest{}); !errors.Is(err, errFormat) {
				t.Errorf("slot past the end: %v", err)
			}
			if _, err := b.object(0, castore.Digest{}); !errors.Is(err, errFormat) {
				t.Errorf("another digest: %v", err)
			}
		})
	}
}

// TestRecordRefused changes records and gives most of them a right sum again, as
// an attacker could who knows the salt.
func TestRecordRefused(t *testing.T) {
	le := binary.LittleEndian
	tests := []struct {
		name   string
		change func(rec []byte)
		resum  bool
		want   error
	}{
		{"magic", func(b []byte) { b[0]++ }, true, errFormat},
		{"kind 0", func(b []byte) { b[4] = 0 }, true, errFormat},
		{"kind 4", func(b []byte) { b[4] = 4 }, true, errFormat},
		{"codec", func(b []byte) { b[5] = 2 }, true, errFormat},
		{"salt", func(b []byte) { b[8]++ }, true, errFormat},
		{"offset", func(b []byte) { b[16]++ }, true, errFormat},
		{"no entries", func(b []byte) { le.PutUint32(b[24:], 0) }, true, errFormat},
		{"many entries", func(b []byte) { le.PutUint32(b[24:], 1<<31) }, false, errFormat},
		{"more entries", func(b []byte) { le.PutUint32(b[24:], 3) }, false, errFormat},
		{"huge raw", func(b []byte) { le.PutUint32(b[28:], 1<<31) }, true, errFormat},
		{"other raw", func(b []byte) { le.PutUint32(b[28:], 4999) }, true, errFormat},
		{"huge stored", func(b []byte) { le.PutUint32(b[32:], 1<<31) }, true, errFormat},
		{"other stored", func(b []byte) { le.PutUint32(b[32:], 1) }, true, errFormat},
		{"payload sum", func(b []byte) { b[36]++ }, true, errChecksum},
		{"payload", func(b []byte) { b[len(b)-1]++ }, true, errChecksum},
		{"header sum", func(b []byte) { b[44]++ }, false, errChecksum},
		{"table", func(b []byte) { b[recordHeaderSize]++ }, false, errChecksum},
		{"length in the table", func(b []byte) { b[recordHeaderSize+32]++ }, true, errFormat},
		{"huge length in the table", func(b []byte) { b[recordHeaderSize+39]++ }, true, errFormat},
		{"recipe of two", func(b []byte) { b[4] = byte(KindRecipe) }, true, errFormat},
	}
	for _, test := range tests {
		rec := record(KindData, CompressS2, 64, prose(4000, 1), prose(1000, 2))
		test.change(rec)
		if test.resum {
			table := rec[recordHeaderSize : recordHeaderSize+2*entrySize]
			le.PutUint32(rec[44:], headSum(rec[:44], table))
		}
		if _, err := decodeRecord(rec, testSalt.short(), 64, nil); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	rec := record(KindData, CompressS2, 64, prose(4000, 1))
	for i := range rec {
		if _, err := decodeRecord(rec[:i], testSalt.short(), 64, nil); err == nil {
			t.Fatalf("record cut to %d bytes is accepted", i)
		}
	}
	// A payload of S2 that is right by its sum, and wrong in itself.
	copy(rec[recordHeaderSize+entrySize+3:], "this is not compressed data")
	sealHeader(rec, KindData, codecS2, 1, 4000)
	placeRecord(rec, testSalt, 64)
	if _, err := decodeRecord(rec, testSalt.short(), 64, nil); err == nil {
		t.Error("a payload that does not decode is accepted")
	}
}

func TestPackHeader(t *testing.T) {
	head := encodePackHeader(7, testSalt)
	if s, err := decodePackHeader(head, 7); err != nil || s != testSalt {
		t.Fatalf("got %v, %v", s, err)
	}
	if _, err := decodePackHeader(head, 8); !errors.Is(err, errFormat) {
		t.Errorf("header of another pack: %v", err)
	}
	for i := range head {
		b := bytes.Clone(head)
		b[i] ^= 1
		if _, err := decodePackHeader(b, 7); err == nil {
			t.Errorf("change of byte %d is accepted", i)
		}
		if _, err := decodePackHeader(head[:i], 7); err == nil {
			t.Errorf("header of %d bytes is accepted", i)
		}
	}
	b := bytes.Clone(head)
	b[8] = 2
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	if _, err := decodePackHeader(b, 7); !errors.Is(err, errFormat) {
		t.Errorf("another version: %v", err)
	}
}

func TestPackName(t *testing.T) {
	for name, want := range map[string]uint32{
		"000001.pack": 1, "999999.pack": 999999, "4294967295.pack": 1<<32 - 1,
		"1.pack": 0, "000000.pack": 0, "4294967296.pack": 0, "00001a.pack": 0, "000001": 0, "-00001.pack": 0, "+00001.pack": 0,
	} {
		if id, ok := parsePackName(name); ok != (want > 0) || ok && id != want {
			t.Errorf("parsePackName(%q) = %d, %v", name, id, ok)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, c := range []Compression{CompressNone, CompressS2} {
		f.Add(record(KindData, c, 64, prose(300, 1), prose(40, 2)))
		f.Add(record(KindRecipe, c, 64, make([]byte, 80)))
	}
	f.Fuzz(func(t *testing.T, rec []byte) {
		b, err := decodeRecord(rec, testSalt.short(), 64, nil)
		if err != nil {
			return
		}
		for i := range b.table {
			if _, err := b.object(uint32(i), b.table[i].digest); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzDecodePayload reaches behind the checksums.
func FuzzDecodePayload(f *testing.F) {
	f.Add(encodeRecord(KindData, []tableEntry{{}}, prose(300, 1), CompressS2)[recordHeaderSize+entrySize:], uint32(300))
	f.Fuzz(func(t *testing.T, payload []byte, raw uint32) {
		h := header{kind: KindData, codec: codecS2, raw: raw % maxRaw}
		if data, err := decodePayload(&h, payload, nil); err == nil && len(data) != int(h.raw) {
			t.Fatal("decoded to another length")
		}
	})
}
