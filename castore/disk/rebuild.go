package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// RebuildResult tells what [Rebuild] found.
type RebuildResult struct {
	Packs, Blocks, Objects uint64
	// Dropped are large blobs whose chunks are not all there, or do not make
	// the blob that their recipe promises.
	Dropped uint64
}

// Rebuild makes the index of a store again from its packs alone, and replaces
// what the index holds. Damaged records are skipped; every object and large blob
// is compared with its digest. The store must not be open.
func Rebuild(ctx context.Context, opts Options) (RebuildResult, error) {
	s, err := newStore(ctx, opts)
	if err != nil {
		return RebuildResult{}, fmt.Errorf("rebuild castore %s: %w", opts.Dir, err)
	}
	res, err := s.rebuild(ctx)
	if err == nil {
		err = s.nextGeneration(ctx) // the database belongs to the packs now
	}
	s.packs.closeAll()
	s.lock.Close()
	if err != nil {
		return res, fmt.Errorf("rebuild castore %s: %w", opts.Dir, err)
	}
	return res, nil
}

func (s *Store) rebuild(ctx context.Context) (RebuildResult, error) {
	var res RebuildResult
	var err error
	if s.lastBlock, err = s.index.lastBlockID(ctx); err != nil {
		return res, err
	}
	err = s.index.db.Write(ctx, func(tx *sqldb.Tx) error {
		for _, table := range []string{"castore_objects", "castore_blocks", "castore_packs"} {
			if _, err := tx.Exec("DELETE FROM " + table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return res, err
	}
	files, err := s.packFiles()
	if err != nil {
		return res, err
	}
	ids := make([]uint32, 0, len(files))
	for id := range files {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if err := s.rebuildPack(ctx, id); err != nil {
			return res, fmt.Errorf("pack %06d: %w", id, err)
		}
	}
	if res.Dropped, err = s.dropBrokenRecipes(ctx); err != nil {
		return res, err
	}
	err = s.index.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		return errors.Join(
			tx.QueryRow("SELECT count(*) FROM castore_packs").Scan(&res.Packs),
			tx.QueryRow("SELECT count(*) FROM castore_blocks").Scan(&res.Blocks),
			tx.QueryRow("SELECT count(*) FROM castore_objects").Scan(&res.Objects))
	})
	return res, err
}

// rebuildPack indexes all whole records of a pack.
func (s *Store) rebuildPack(ctx context.Context, id uint32) error {
	f, err := os.Open(s.packs.path(id))
	if err != nil {
		return err
	}
	defer f.Close()
	sc, err := newScanner(f, id, nil)
	if sc == nil {
		return err
	}
	if err != nil {
		s.log.Error("pack header is damaged", "pack", s.packs.path(id), "err", err)
	}
	row := packRow{id: id, size: sc.pos, salt: sc.fullSalt()}
	s.packs.add(id, row.salt)
	_, err = s.indexTail(ctx, f, row, true)
	return err
}

// dropBrokenRecipes forgets large blobs that cannot be read whole: a recipe was
// believed on its own word until here.
func (s *Store) dropBrokenRecipes(ctx context.Context) (dropped uint64, err error) {
	digests, err := s.index.recipes(ctx, s.lastBlock)
	if err != nil {
		return 0, err
	}
	v := &verifier{Store: s}
	for _, d := range digests {
		err := v.checkLarge(ctx, d)
		if err == nil {
			continue
		}
		if !errors.Is(err, castore.ErrCorrupt) && !errors.Is(err, castore.ErrNotFound) {
			return dropped, err
		}
		s.log.Error("large blob is not whole; dropped from the index", "blob", d, "err", err)
		err = s.index.db.Write(ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec("DELETE FROM castore_objects WHERE digest = ? AND recipe = 1", d[:])
			return err
		})
		if err != nil {
			return dropped, err
		}
		dropped++
	}
	return dropped, nil
}
