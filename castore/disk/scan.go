package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tvixd/tvixd/castore"
)

// Record is a record found in a pack by [ScanPack].
type Record struct {
	Kind   Kind
	Offset int64
	Length int64
	// Digests and Lengths are the table: the objects of a data block, the
	// blob that a recipe describes, or the key of a record of another kind.
	Digests []castore.Digest
	Lengths []uint64
	// Payload is decoded. It is valid until the next record.
	Payload []byte
}

// ScanPack reads a pack from its file alone and calls found for each record whose
// checksums are right. Damaged parts are reported to damaged, if it is not nil,
// and skipped. The bytes of objects are not compared with their digests.
func ScanPack(path string, found func(Record) error, damaged func(offset int64, err error)) error {
	id, ok := parsePackName(pathBase(path))
	if !ok {
		return fmt.Errorf("scan pack: %q is not the name of a pack", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("scan pack: %w", err)
	}
	defer f.Close()
	sc, err := newScanner(f, id, nil)
	if err != nil && damaged != nil {
		damaged(0, err)
	}
	for {
		at, b, err := sc.next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, errFormat) || errors.Is(err, errChecksum):
			if damaged != nil {
				damaged(at.offset, err)
			}
			if err := sc.resync(); err != nil {
				return fmt.Errorf("scan pack: %w", err)
			}
			continue
		case err != nil:
			return fmt.Errorf("scan pack: %w", err)
		}
		rec := Record{Kind: b.kind, Offset: at.offset, Length: at.length, Payload: b.data}
		for _, e := range b.table {
			rec.Digests = append(rec.Digests, e.digest)
			rec.Lengths = append(rec.Lengths, e.length)
		}
		if err := found(rec); err != nil {
			return err
		}
	}
}

func pathBase(path string) string {
	return path[bytes.LastIndexByte([]byte(path), os.PathSeparator)+1:]
}

// scanner walks over the records of a pack.
type scanner struct {
	f    *os.File
	id   uint32
	salt uint64
	full *salt // the whole salt, if the header gave it
	pos  int64
	size int64
	buf  []byte
}

// newScanner begins at the first record. If the salt is nil it is taken from the
// pack's header; if that is damaged, from the first thing that looks like a
// record in its place, and the error is returned along with a usable scanner.
func newScanner(f *os.File, id uint32, known *salt) (*scanner, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	sc := &scanner{f: f, id: id, pos: packHeaderSize, size: fi.Size()}
	if known != nil {
		sc.salt = known.short()
		return sc, nil
	}
	head := make([]byte, packHeaderSize)
	n, _ := f.ReadAt(head, 0)
	s, err := decodePackHeader(head[:n], id)
	if err == nil {
		sc.salt, sc.full = s.short(), &s
		return sc, nil
	}
	return sc, errors.Join(err, sc.guessSalt())
}

// fullSalt returns the salt of the pack, as far as it is known.
func (sc *scanner) fullSalt() (s salt) {
	if sc.full != nil {
		return *sc.full
	}
	binary.LittleEndian.PutUint64(s[:], sc.salt)
	return s
}

// guessSalt takes the salt from a record. Its own offset must be right, which
// bytes inside of a payload can hardly know, and whoever asks compares what is
// found with its digests.
func (sc *scanner) guessSalt() error {
	for pos := int64(packHeaderSize); ; {
		at, err := sc.findMagic(pos)
		if err != nil {
			sc.pos = sc.size
			return nil // nothing to be found
		}
		head := make([]byte, recordHeaderSize)
		if n, _ := sc.f.ReadAt(head, at); n == len(head) {
			s := binary.LittleEndian.Uint64(head[8:])
			if h, err := parseHeader(head, s, at); err == nil && sc.tableIsGood(&h, at) {
				sc.salt, sc.pos = s, at
				return nil
			}
		}
		pos = at + 1
	}
}

func (sc *scanner) tableIsGood(h *header, at int64) bool {
	table := make([]byte, int(h.count)*entrySize)
	if _, err := sc.f.ReadAt(table, at+recordHeaderSize); err != nil {
		return false
	}
	_, err := h.parseTable(table)
	return err == nil
}

// next reads the record at the present position and moves past it. At the end of
// the file it returns io.EOF; for a damaged record an error that wraps errFormat
// or errChecksum, with the position unchanged. The block is valid until the next
// call.
func (sc *scanner) next() (place, *block, error) {
	for {
		at, b, err := sc.record()
		if err != errPunched {
			return at, b, err
		}
		sc.pos += at.length
	}
}

// errPunched says that a record was dead, and its space given back.
var errPunched = errors.New("record is punched")

func (sc *scanner) record() (place, *block, error) {
	at := place{pack: sc.id, offset: sc.pos}
	if sc.pos >= sc.size {
		return at, nil, io.EOF
	}
	head := make([]byte, recordHeaderSize)
	if n, err := sc.f.ReadAt(head, sc.pos); n < len(head) {
		return at, nil, torn(err)
	}
	h, err := parseHeader(head, sc.salt, sc.pos)
	if err != nil {
		return at, nil, err
	}
	at.length = h.length()
	if at.length > sc.size-sc.pos {
		return at, nil, fmt.Errorf("%w: pack ends early", errFormat)
	}
	if int64(cap(sc.buf)) < at.length {
		sc.buf = make([]byte, at.length)
	}
	rec := sc.buf[:at.length]
	if n, err := sc.f.ReadAt(rec, sc.pos); n < len(rec) {
		return at, nil, torn(err)
	}
	b, err := decodeRecord(rec, sc.salt, sc.pos, nil)
	if errors.Is(err, errChecksum) && h.isPunched(rec, sc.pos) {
		return at, nil, errPunched
	}
	if err != nil {
		return at, nil, wrapDamage(err)
	}
	sc.pos += at.length
	return at, b, nil
}

func torn(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: pack ends early", errFormat)
	}
	return err
}

// wrapDamage makes every error of decoding one that the scanner's users know.
func wrapDamage(err error) error {
	if errors.Is(err, errFormat) || errors.Is(err, errChecksum) {
		return err
	}
	return fmt.Errorf("%w: %w", errFormat, err)
}

// resync moves to the next place after the present one that looks like the
// beginning of a record, or to the end.
func (sc *scanner) resync() error {
	at, err := sc.findMagic(sc.pos + 1)
	for err == nil {
		head := make([]byte, recordHeaderSize)
		if n, _ := sc.f.ReadAt(head, at); n == len(head) {
			if _, perr := parseHeader(head, sc.salt, at); perr == nil {
				sc.pos = at
				return nil
			}
		}
		at, err = sc.findMagic(at + 1)
	}
	sc.pos = sc.size
	if err == io.EOF {
		return nil
	}
	return err
}

// findMagic returns the next offset at which the magic of a record stands.
func (sc *scanner) findMagic(pos int64) (int64, error) {
	magic := binary.LittleEndian.AppendUint32(nil, recordMagic)
	window := make([]byte, 1<<20)
	for pos < sc.size {
		n, err := sc.f.ReadAt(window, pos)
		if i := bytes.Index(window[:n], magic); i >= 0 {
			return pos + int64(i), nil
		}
		if n < len(window) {
			if err == nil || errors.Is(err, io.EOF) {
				return 0, io.EOF
			}
			return 0, err
		}
		pos += int64(n) - int64(len(magic)) + 1
	}
	return 0, io.EOF
}
