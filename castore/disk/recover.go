package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// recover brings the packs on disk and the index into agreement after the last
// process ended, in whatever way: it unlinks packs that compaction had emptied,
// forgets those that were swept, indexes whole records that follow what was
// committed, and cuts off the torn rest.
func (s *Store) recover(ctx context.Context) error {
	last, err := s.index.lastBlockID(ctx)
	if err != nil {
		return err
	}
	s.lastBlock = last
	rows, err := s.index.packs(ctx)
	if err != nil {
		return err
	}
	files, err := s.packFiles()
	if err != nil {
		return err
	}
	known := make(map[uint32]packRow, len(rows))
	var gone []uint32
	for _, row := range rows {
		known[row.id] = row
		s.append.nextID = max(s.append.nextID, row.id+1)
		if row.dead {
			if err := s.index.db.Flush(); err != nil {
				return err
			}
			if _, err := s.packs.remove(row.id); err != nil {
				return err
			}
			gone = append(gone, row.id)
		} else if _, ok := files[row.id]; !ok {
			s.log.Warn("pack is missing; its contents are forgotten", "pack", s.packs.path(row.id))
			gone = append(gone, row.id)
		}
	}
	if err := s.index.deletePacks(ctx, gone); err != nil {
		return err
	}
	ids := make([]uint32, 0, len(files))
	for id := range files {
		if !slices.Contains(gone, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var newest *packEnd // nil if it cannot be appended to
	for _, id := range ids {
		end, err := s.recoverPack(ctx, id, known[id], files[id])
		if err != nil {
			return fmt.Errorf("pack %06d: %w", id, err)
		}
		if s.packs.has(id) {
			newest = end
			s.append.nextID = max(s.append.nextID, id+1)
		}
	}
	// The newest pack goes on, if it is as it should be.
	if newest != nil && newest.end < s.opts.PackBytes {
		return s.append.resume(newest.id, newest.salt, newest.end)
	}
	return nil
}

// packFiles returns the sizes of the pack files by id. What has the name of a pack
// and is no file is passed over.
func (s *Store) packFiles() (map[uint32]int64, error) {
	entries, err := os.ReadDir(s.packs.dir)
	if err != nil {
		return nil, err
	}
	files := make(map[uint32]int64, len(entries))
	for _, e := range entries {
		id, ok := parsePackName(e.Name())
		if !ok {
			continue
		}
		if !e.Type().IsRegular() {
			s.log.Warn("not a pack, in spite of its name; ignored", "file", s.packs.path(id), "mode", e.Type())
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		files[id] = fi.Size()
	}
	return files, nil
}

// recoverPack makes a pack known and deals with what follows its committed part.
// It returns the end of the pack if it can be appended to.
func (s *Store) recoverPack(ctx context.Context, id uint32, row packRow, size int64) (*packEnd, error) {
	f, err := os.OpenFile(s.packs.path(id), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := secure(f.Name(), fileMode); err != nil {
		return nil, err
	}
	head := make([]byte, packHeaderSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	fileSalt, headErr := decodePackHeader(head[:n], id)
	switch {
	case row.id == 0 && headErr != nil && size <= packHeaderSize:
		// The process ended while it made the pack.
		_, err := s.packs.remove(id)
		return nil, err
	case row.id == 0 && headErr != nil:
		s.log.Error("pack is not in the index and its header is damaged; left alone", "pack", s.packs.path(id), "err", headErr)
		return nil, nil
	case row.id == 0:
		row = packRow{id: id, size: packHeaderSize, salt: fileSalt}
	case headErr != nil || fileSalt != row.salt:
		// Records carry the salt too, and are read with the one in the index.
		s.log.Error("pack header is damaged", "pack", s.packs.path(id), "err", headErr)
	}
	s.packs.add(id, row.salt)
	if size < row.size {
		s.log.Error("pack is cut off", "pack", s.packs.path(id), "size", size, "committed", row.size)
		return nil, nil
	}
	end := packEnd{id, row.salt, row.size}
	if size > row.size {
		if end.end, err = s.indexTail(ctx, f, row, false); err != nil {
			return nil, err
		}
		if end.end < size {
			s.log.Info("unfinished end of pack cut off", "pack", s.packs.path(id), "bytes", size-end.end)
			if err := f.Truncate(end.end); err != nil {
				return nil, err
			}
		}
	}
	if headErr != nil {
		return nil, nil
	}
	return &end, nil
}

// tailBatch is the number of objects that are indexed in one transaction.
const tailBatch = 20_000

// indexTail indexes the whole records of a pack after the part in row, as far as
// their objects are not in the index. It stops at the first record that is not
// whole, or skips it if told to, and returns where it stopped. Every object is
// compared with its digest.
func (s *Store) indexTail(ctx context.Context, f *os.File, row packRow, skip bool) (int64, error) {
	sc, err := newScanner(f, row.id, &row.salt)
	if err != nil {
		return 0, err
	}
	sc.pos = row.size
	var batch []*pendingBlock
	objects := 0
	commit := func() error {
		if err := f.Sync(); err != nil {
			return err
		}
		err := s.indexBlocks(ctx, packEnd{row.id, row.salt, sc.pos}, batch)
		batch, objects = nil, 0
		return err
	}
	for {
		at, b, err := sc.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if !errors.Is(err, errFormat) && !errors.Is(err, errChecksum) {
				return 0, err
			}
			if !skip {
				break
			}
			s.log.Error("damaged record in pack", "pack", row.id, "offset", at.offset, "err", err)
			if err := sc.resync(); err != nil {
				return 0, err
			}
			continue
		}
		if err := checkObjects(b); err != nil {
			s.log.Error("record with wrong contents in pack", "pack", row.id, "offset", at.offset, "err", err)
			continue
		}
		s.lastBlock++
		batch = append(batch, &pendingBlock{id: s.lastBlock, kind: b.kind, table: b.table, rawLen: len(b.data), at: at})
		if objects += len(b.table); objects >= tailBatch {
			if err := commit(); err != nil {
				return 0, err
			}
		}
	}
	return sc.pos, commit()
}

// checkObjects compares the objects in a block with their digests. A recipe
// can only be checked for its form.
func checkObjects(b *block) error {
	if b.kind == KindRecipe {
		return recipe(b.data).check(b.table[0].length)
	}
	if b.kind != KindData {
		return nil
	}
	for slot := range b.table {
		d := b.table[slot].digest
		data, err := b.object(uint32(slot), d)
		if err != nil {
			return err
		}
		if castore.Sum(data) != d {
			return fmt.Errorf("object %v: %w", d, errChecksum)
		}
	}
	return nil
}

// indexBlocks records blocks found in a pack, keeping the places of objects that
// the index has already.
func (s *Store) indexBlocks(ctx context.Context, end packEnd, blocks []*pendingBlock) error {
	return s.index.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
		if err := insertPacks(tx, []packEnd{end}); err != nil {
			return err
		}
		for _, b := range blocks {
			if err := insertBlock(tx, b.id, b.kind, b.rawLen, b.at); err != nil {
				return err
			}
			if b.kind == KindPathInfo {
				continue
			}
			for slot := range b.table {
				e := &b.table[slot]
				if _, known, err := lookupTx(tx, e.digest); err != nil {
					return err
				} else if known {
					continue
				}
				if _, err := tx.Exec(insertObjectSQL, e.digest[:], b.id, slot, e.length, b.kind == KindRecipe); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
