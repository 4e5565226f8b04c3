package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/tvixd/tvixd/castore"
)

// moves is how often a reader looks an object up again because its pack went
// away under it. Compaction moves a block once in a sweep.
const moves = 8

// load returns the bytes of an object, or the payload of its recipe, with its
// location. The bytes must not be changed. With a dst they may be read past the
// cache, into dst, which then must outlive their use.
func (s *Store) load(ctx context.Context, kind string, d castore.Digest, dst []byte) (location, []byte, error) {
	loc, found, err := s.findToRead(ctx, d)
	if err != nil {
		return location{}, nil, err
	}
	if !found {
		return location{}, nil, castore.NotFound(kind, d)
	}
	return s.loadFrom(ctx, loc, kind, d, dst)
}

// findToRead is find for readers, who may take what the cache has. Whether
// something is present to stay only the index tells.
func (s *Store) findToRead(ctx context.Context, d castore.Digest) (location, bool, error) {
	if loc, ok := s.cache.locate(d); ok {
		return loc, true, nil
	}
	return s.find(ctx, d)
}

// loadFrom is load for an object that was found at a location, however long ago:
// a pack keeps what it has until it goes away as a whole.
func (s *Store) loadFrom(ctx context.Context, loc location, kind string, d castore.Digest, dst []byte) (location, []byte, error) {
	var last error
	for range moves {
		data, err := s.objectAt(&loc, d, dst)
		if err == nil {
			return loc, data, nil
		}
		last = err
		old := loc
		var found bool
		if loc, found, err = s.find(ctx, d); err != nil {
			return location{}, nil, err
		}
		switch {
		case !found:
			return location{}, nil, castore.NotFound(kind, d) // swept
		case !isGone(last) && loc.block == old.block:
			return location{}, nil, s.readError(kind, d, &old, last)
		}
		// It has moved, or was healed.
	}
	if errors.Is(last, errPackGone) {
		// Swept just now: the index follows in a moment.
		return location{}, nil, castore.NotFound(kind, d)
	}
	return location{}, nil, castore.Corrupt(kind, d, last)
}

// objectAt returns the bytes of an object at a location.
func (s *Store) objectAt(loc *location, d castore.Digest, dst []byte) ([]byte, error) {
	if loc.mem != nil {
		return loc.mem, nil
	}
	b, err := s.fetch(loc, dst)
	if err != nil {
		return nil, err
	}
	data, err := b.object(loc.slot, d)
	if err != nil {
		return nil, err
	}
	if loc.kind != b.kind || b.kind == KindData && loc.size != uint64(len(data)) {
		return nil, fmt.Errorf("%w: index disagrees with the pack", errFormat)
	}
	return data, nil
}

// isGone tells whether an error says that a pack is not there any more.
func isGone(err error) bool {
	return errors.Is(err, errPackGone) || errors.Is(err, os.ErrNotExist)
}

// readError tells damage from other troubles.
func (s *Store) readError(kind string, d castore.Digest, loc *location, err error) error {
	var sys *os.PathError
	if errors.As(err, &sys) && !isDamage(sys) {
		return fmt.Errorf("read %s %v: %w", kind, d, err)
	}
	s.damagedBlock(loc.block, loc.at, err)
	return castore.Corrupt(kind, d, err)
}

// fetch returns the decoded block at a location.
func (s *Store) fetch(loc *location, dst []byte) (*block, error) {
	if dst != nil {
		if b := s.cache.peek(loc.block); b != nil {
			return b, nil
		}
		return s.readBlock(loc.at, dst)
	}
	return s.cache.get(loc, func() (*block, error) { return s.readBlock(loc.at, nil) })
}

func (s *Store) readBlock(at place, dst []byte) (*block, error) {
	rec, salt, err := s.packs.readRecord(at)
	if err != nil {
		return nil, err
	}
	defer putBuf(rec)
	b, err := decodeRecord(rec, salt.short(), at.offset, dst)
	if err != nil {
		return nil, fmt.Errorf("pack %06d at %d: %w", at.pack, at.offset, err)
	}
	return b, nil
}

// Open implements [castore.BlobService].
func (s *Store) Open(ctx context.Context, d castore.Digest) (castore.Blob, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if d == castore.EmptyDigest {
		return &smallBlob{store: s, digest: d}, nil
	}
	loc, found, err := s.findToRead(ctx, d)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open blob: %w", err)
	case !found:
		return nil, castore.NotFound("blob", d)
	case loc.kind == KindData:
		return &smallBlob{store: s, digest: d, size: loc.size, at: loc}, nil
	}
	loc, entries, err := s.loadFrom(ctx, loc, "blob", d, nil)
	if err != nil {
		return nil, err
	}
	if loc.kind == KindData {
		return &smallBlob{store: s, digest: d, size: loc.size, at: loc}, nil
	}
	r := recipe(entries)
	if err := r.check(loc.size); err != nil {
		return nil, s.readError("blob", d, &loc, err)
	}
	return &largeBlob{store: s, digest: d, size: loc.size, recipe: r}, nil
}

// GetDirectory implements [castore.DirectoryService].
func (s *Store) GetDirectory(ctx context.Context, d castore.Digest) (*castore.Directory, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	return s.getDirectory(ctx, d)
}

func (s *Store) getDirectory(ctx context.Context, d castore.Digest) (*castore.Directory, error) {
	if d == castore.EmptyDigest {
		return new(castore.Directory), nil
	}
	loc, data, err := s.load(ctx, "directory", d, nil)
	if err != nil {
		return nil, err
	}
	if loc.kind != KindData {
		if data, err = s.readAll(ctx, d, loc.size, recipe(data)); err != nil {
			return nil, err
		}
	}
	dir, err := castore.DecodeDirectory(data)
	if err != nil {
		// The bytes are good: they are those of a blob that is no directory.
		return nil, castore.NotFound("directory", d)
	}
	return dir, nil
}

// maxDirectory bounds the encoding of a directory that is read into memory: some
// millions of entries.
const maxDirectory = 512 << 20

// readAll reads a large object into memory.
func (s *Store) readAll(ctx context.Context, d castore.Digest, size uint64, r recipe) ([]byte, error) {
	if err := r.check(size); err != nil {
		return nil, castore.Corrupt("directory", d, err)
	}
	if size > maxDirectory {
		return nil, castore.NotFound("directory", d)
	}
	buf := make([]byte, 0, size)
	for i := range r.chunks() {
		_, data, err := s.load(ctx, "chunk", r.digest(i), nil)
		if err != nil {
			return nil, chunkError("directory", d, err)
		}
		buf = append(buf, data...)
	}
	if uint64(len(buf)) != size {
		return nil, castore.Corrupt("directory", d, errFormat)
	}
	return buf, nil
}

// recipe is the payload of a recipe block; see the package's documentation.
type recipe []byte

func (r recipe) chunks() int { return len(r) / recipeEntrySize }

func (r recipe) digest(i int) castore.Digest {
	return castore.Digest(r[i*recipeEntrySize : i*recipeEntrySize+castore.DigestSize])
}

// end is the offset in the blob at which chunk i ends.
func (r recipe) end(i int) uint64 {
	return binary.LittleEndian.Uint64(r[i*recipeEntrySize+castore.DigestSize:])
}

func (r recipe) start(i int) uint64 {
	if i == 0 {
		return 0
	}
	return r.end(i - 1)
}

// find returns the chunk that holds the byte at off.
func (r recipe) find(off uint64) int {
	return sort.Search(r.chunks(), func(i int) bool { return r.end(i) > off })
}

// check tests that the recipe makes a blob of the given size. That each chunk
// has its length is tested when it is read.
func (r recipe) check(size uint64) error {
	n := r.chunks()
	if n == 0 || len(r)%recipeEntrySize != 0 || r.end(n-1) != size {
		return fmt.Errorf("%w: recipe", errFormat)
	}
	return nil
}

// chunkError is the error of a blob of which a chunk cannot be read. A chunk that
// is missing makes the blob corrupt: the blob itself is there.
func chunkError(kind string, d castore.Digest, err error) error {
	switch {
	case errors.Is(err, castore.ErrNotFound), errors.Is(err, castore.ErrCorrupt):
		return castore.Corrupt(kind, d, err)
	default:
		return err
	}
}

// isDamage tells whether an error of the system speaks of the medium.
func isDamage(err *os.PathError) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err.Err, errIO)
}
