package disk

import (
	"context"
	"fmt"

	"github.com/tvixd/tvixd/castore"
)

// PutBlob implements [castore.BlobService].
func (s *Store) PutBlob(ctx context.Context, data []byte) (castore.Digest, error) {
	if len(data) > maxObject {
		return s.putLarge(ctx, data)
	}
	if err := s.enter(ctx); err != nil {
		return castore.Digest{}, err
	}
	defer s.leave()
	d := castore.Sum(data)
	if err := s.put(ctx, d, data, false); err != nil {
		return castore.Digest{}, fmt.Errorf("put blob: %w", err)
	}
	return d, nil
}

// PutDirectory implements [castore.DirectoryService].
func (s *Store) PutDirectory(ctx context.Context, dir *castore.Directory) (castore.Digest, error) {
	if err := dir.Validate(); err != nil {
		return castore.Digest{}, err
	}
	data := dir.Encode()
	if len(data) > maxObject {
		d, err := s.putLarge(ctx, data)
		if err == nil {
			s.holds.TouchDirectory(d)
		}
		return d, err
	}
	if err := s.enter(ctx); err != nil {
		return castore.Digest{}, err
	}
	defer s.leave()
	d := castore.Sum(data)
	if err := s.put(ctx, d, data, true); err != nil {
		return castore.Digest{}, fmt.Errorf("put directory: %w", err)
	}
	return d, nil
}

// putLarge stores bytes that are cut into chunks.
func (s *Store) putLarge(ctx context.Context, data []byte) (castore.Digest, error) {
	w, err := s.Create(ctx)
	if err != nil {
		return castore.Digest{}, err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return castore.Digest{}, err
	}
	d, _, err := w.Commit()
	return d, err
}

// put stores an object of up to maxObject bytes. It does not keep data.
func (s *Store) put(ctx context.Context, d castore.Digest, data []byte, dir bool) error {
	present, err := s.present(ctx, d, dir)
	if err != nil || present {
		return err
	}
	if err := s.admit(ctx); err != nil {
		return err
	}
	if len(data) <= maxShared {
		s.submit(s.addShared(d, data))
	} else {
		s.submit(s.addOwn(d, KindData, uint64(len(data)), cloneBuf(data)))
	}
	return nil
}

// present tells whether an object is stored and was seen good, and holds it in
// any case: a put that follows is covered too.
func (s *Store) present(ctx context.Context, d castore.Digest, dir bool) (bool, error) {
	if d == castore.EmptyDigest {
		return true, nil
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	if dir {
		s.holds.TouchDirectory(d)
	} else {
		s.holds.Touch(d)
	}
	if s.presence.absent(d) {
		return false, nil
	}
	for range moves {
		loc, found, err := s.find(ctx, d)
		if err != nil || !found {
			return false, err
		}
		if loc.mem != nil {
			return true, nil
		}
		if !s.condemned.spares(d, &loc) {
			return false, nil
		}
		if sound, err := s.sound(d, &loc); err == nil {
			return sound, nil
		}
		// The block has moved since it was found.
	}
	return false, nil
}

// find looks an object up among the pending ones and in the index.
func (s *Store) find(ctx context.Context, d castore.Digest) (location, bool, error) {
	// An object is counted before its put returns, and until it can be found
	// in the index.
	if s.pendingN.Load() > 0 {
		s.mu.Lock()
		ref, ok := s.pending[d]
		if ok {
			loc := ref.location()
			s.mu.Unlock()
			return loc, true, nil
		}
		s.mu.Unlock()
	}
	return s.index.lookup(ctx, d)
}

// sound tells whether the block of an object is good, looking at it if that was
// not done since the store was opened. The error says that it is somewhere else.
func (s *Store) sound(d castore.Digest, loc *location) (bool, error) {
	good, damaged := s.health.get(loc.block)
	if good || damaged {
		return good, nil
	}
	rec, salt, err := s.packs.readRecord(loc.at)
	if err == nil {
		defer putBuf(rec)
		var table []tableEntry
		_, table, _, err = splitRecord(rec, salt.short(), loc.at.offset)
		if err == nil && (int(loc.slot) >= len(table) || table[loc.slot].digest != d) {
			err = fmt.Errorf("%w: another object in its place", errFormat)
		}
	}
	if isGone(err) {
		return false, err
	}
	if err != nil {
		s.damagedBlock(loc.block, loc.at, err)
		return false, nil
	}
	s.health.setGood(loc.block)
	return true, nil
}

// damagedBlock remembers and reports damage.
func (s *Store) damagedBlock(id uint64, at place, err error) {
	s.cache.drop(id)
	if s.health.setDamaged(id) {
		s.log.Error("castore block is damaged", "pack", at.pack, "offset", at.offset, "err", err)
	}
}

// Has implements [castore.BlobService].
func (s *Store) Has(ctx context.Context, digests []castore.Digest) ([]bool, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	has := make([]bool, len(digests))
	for i, d := range digests {
		var err error
		if has[i], err = s.has(ctx, d); err != nil {
			return nil, fmt.Errorf("has: %w", err)
		}
	}
	return has, nil
}

// has is present without looking at the block.
func (s *Store) has(ctx context.Context, d castore.Digest) (bool, error) {
	if d == castore.EmptyDigest {
		return true, nil
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	s.holds.Touch(d)
	if s.presence.absent(d) {
		return false, nil
	}
	loc, found, err := s.find(ctx, d)
	if err != nil || !found {
		return false, err
	}
	_, damaged := s.health.get(loc.block)
	return loc.mem != nil || !damaged && s.condemned.spares(d, &loc), nil
}
