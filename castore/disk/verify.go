package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/tvixd/tvixd/castore"
)

// verifier checks a whole store.
type verifier struct {
	*Store
	mu     sync.Mutex
	report func(castore.Problem) // called under mu
	// bad are the damaged blocks. Guarded by mu.
	bad map[uint64]castore.Problem
}

// Verify implements [castore.Keeper]. Every block is read from the medium, past
// the cache, and every object and large blob is compared with its digest.
func (s *Store) Verify(ctx context.Context, report func(castore.Problem)) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	v := &verifier{Store: s, report: report, bad: make(map[uint64]castore.Problem)}
	if err := v.run(ctx); err != nil {
		return fmt.Errorf("verify castore: %w", err)
	}
	return nil
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.sync(ctx); err != nil {
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		v.log.Warn("disk is full; verifying without the newest data", "err", err)
	}
	if err := v.checkPacks(ctx); err != nil {
		return err
	}
	if err := v.checkBlocks(ctx); err != nil {
		return err
	}
	if err := v.nameObjects(ctx); err != nil {
		return err
	}
	return v.checkRecipes(ctx)
}

func (v *verifier) problem(p castore.Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report(p)
}

// checkPacks looks at the headers of packs.
func (v *verifier) checkPacks(ctx context.Context) error {
	rows, err := v.index.packs(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		err := v.checkPackHeader(row)
		if err != nil && !isGone(err) {
			v.problem(castore.Problem{
				Where: fmt.Sprintf("header of pack %06d", row.id),
				Err:   fmt.Errorf("%w: %w", castore.ErrCorrupt, err),
			})
		}
	}
	return nil
}

func (v *verifier) checkPackHeader(row packRow) error {
	p, err := v.packs.acquire(row.id)
	if err != nil {
		return err
	}
	defer v.packs.release(p)
	head := make([]byte, packHeaderSize)
	n, err := p.file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	s, err := decodePackHeader(head[:n], row.id)
	if err == nil && s != row.salt {
		err = fmt.Errorf("%w: salt differs from the index", errFormat)
	}
	return err
}

// checkBlocks checks all blocks, several at a time, in the order in which they
// lie in the packs.
func (v *verifier) checkBlocks(ctx context.Context) error {
	ids := v.packs.ids()
	v.Store.mu.Lock()
	boundary := v.lastBlock
	v.Store.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan []blockRow)
	g.Go(func() error {
		defer close(work)
		for _, id := range ids {
			blocks, err := v.index.blocks(ctx, boundary, id)
			if err != nil {
				return err
			}
			for len(blocks) > 0 {
				n := min(len(blocks), 16)
				select {
				case work <- blocks[:n]:
				case <-ctx.Done():
					return ctx.Err()
				}
				blocks = blocks[n:]
			}
		}
		return nil
	})
	for range v.opts.Workers {
		g.Go(func() error {
			dst := make([]byte, maxObject)
			for blocks := range work {
				for i := range blocks {
					if err := v.checkBlock(ctx, &blocks[i], dst); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// checkBlock checks one block; its error is one that ends the verification.
func (v *verifier) checkBlock(ctx context.Context, b *blockRow, dst []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := place{b.pack, b.offset, int64(b.length)}
	rec, salt, err := v.packs.readRecord(at)
	if isGone(err) && !v.packs.has(b.pack) {
		return nil // moved or swept meanwhile
	}
	var sys *os.PathError
	if errors.As(err, &sys) && !isDamage(sys) && !isGone(err) {
		return err
	}
	where := fmt.Sprintf("pack %06d at %d", b.pack, b.offset)
	if err != nil {
		v.damaged(b, castore.Problem{Where: where, Err: err})
		return nil
	}
	defer putBuf(rec)
	h, table, payload, err := splitRecord(rec, salt.short(), b.offset)
	if err == nil {
		var data []byte
		if data, err = decodePayload(&h, payload, dst); err == nil {
			err = checkObjects(newBlock(h.kind, table, data))
		}
	}
	if err != nil {
		if there, lerr := v.index.hasBlock(ctx, b.id); lerr != nil || !there {
			return lerr // swept meanwhile
		}
		v.damaged(b, castore.Problem{Where: where, Err: err})
		return nil
	}
	v.health.setGood(b.id)
	return nil
}

// damaged notes a damaged block, of which the objects are named later.
func (v *verifier) damaged(b *blockRow, p castore.Problem) {
	v.damagedBlock(b.id, place{b.pack, b.offset, int64(b.length)}, p.Err)
	if b.kind == KindPathInfo {
		p.Err = fmt.Errorf("%w: %w", castore.ErrCorrupt, p.Err)
		v.problem(p)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bad[b.id] = p
}

// nameObjects reports the objects in damaged blocks. The index knows them, also
// where a block cannot tell any more, and it knows which of them were healed.
func (v *verifier) nameObjects(ctx context.Context) error {
	if len(v.bad) == 0 {
		return nil
	}
	return v.index.scan(ctx, func(rows []objectRow) error {
		for i := range rows {
			if p, ok := v.bad[rows[i].block]; ok {
				p.Digest = rows[i].digest
				p.Err = castore.Corrupt("object", p.Digest, p.Err)
				v.problem(p)
			}
		}
		return ctx.Err()
	})
}

// checkRecipes hashes all large blobs. Those with a damaged chunk fail here too,
// and are reported by their own names.
func (v *verifier) checkRecipes(ctx context.Context) error {
	v.Store.mu.Lock()
	boundary := v.lastBlock
	v.Store.mu.Unlock()
	digests, err := v.index.recipes(ctx, boundary)
	if err != nil {
		return err
	}
	for _, d := range digests {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := v.checkLarge(ctx, d)
		switch {
		case err == nil, errors.Is(err, castore.ErrNotFound): // swept meanwhile
		case errors.Is(err, castore.ErrCorrupt):
			v.problem(castore.Problem{Digest: d, Where: "chunks of a blob", Err: err})
		default:
			return err
		}
	}
	return nil
}

func (v *verifier) checkLarge(ctx context.Context, d castore.Digest) error {
	b, err := v.Open(ctx, d)
	if err != nil {
		return err
	}
	defer b.Close()
	h := castore.NewHasher()
	if _, err := b.WriteTo(h); err != nil {
		return err
	}
	if castore.Digest(h.Sum(nil)) != d {
		return castore.Corrupt("blob", d, fmt.Errorf("recipe: %w", errChecksum))
	}
	return nil
}
