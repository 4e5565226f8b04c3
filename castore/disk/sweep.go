package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"syscall"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/internal/damage"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// defaultDeadFraction is the part of a pack that must be dead for the pack to be
// rewritten.
const defaultDeadFraction = 0.3

// deleteBatch is the number of objects that are condemned and deleted at once.
const deleteBatch = 4096

// sweep is one run of Sweep. It goes in steps, beside puts and reads:
//
//  1. It holds everything that is held now or touched from now on, and closes
//     the open block: only blocks up to the boundary can lose anything.
//  2. It marks what can be reached from the roots and from held directories.
//  3. Large blobs come first: those that are dead are condemned together, so
//     that none is found present after some of its chunks are gone.
//  4. It counts what lives in each block, without writing anything, and unlinks
//     the packs in which nothing does: on a full disk, this makes the room for
//     what follows. Before that, the sweep ends if anything alive is missing or
//     damaged: nothing below it could be told from what is dead.
//  5. It deletes the index rows of dead objects, batch by batch. A batch is
//     condemned first, under the gate: who looks for one of its objects from then
//     on finds it absent and stores it anew, and who found it before has touched
//     it, so that it is held and not in the batch.
//  6. It drops blocks without objects and rewrites packs that are mostly dead.
type sweep struct {
	*Store
	opts     castore.SweepOptions
	boundary uint64
	marker   *marker
	blocks   []blockRow          // up to the boundary, by id
	punched  map[uint64]struct{} // blocks known to have holes
	res      castore.SweepResult
}

// Sweep implements [castore.Keeper].
func (s *Store) Sweep(ctx context.Context, live castore.LiveSet, opts castore.SweepOptions) (castore.SweepResult, error) {
	if err := s.enter(ctx); err != nil {
		return castore.SweepResult{}, err
	}
	defer s.leave()
	s.sweepMu.Lock()
	defer s.sweepMu.Unlock()
	release := s.holds.HoldAll()
	defer release()
	s.condemned.watch(true)
	defer func() {
		s.condemned.watch(false)
		s.gate.Lock()
		s.condemned.objects, s.condemned.packs = nil, nil
		s.gate.Unlock()
	}()
	if opts.DeadFraction == 0 {
		opts.DeadFraction = defaultDeadFraction
	}
	sw := &sweep{Store: s, opts: opts, marker: newMarker(s), punched: make(map[uint64]struct{})}
	if err := sw.run(ctx, live); err != nil {
		return sw.res, fmt.Errorf("sweep castore: %w", err)
	}
	return sw.res, nil
}

func (sw *sweep) run(ctx context.Context, live castore.LiveSet) error {
	if err := sw.begin(ctx); err != nil {
		return err
	}
	if err := sw.marker.mark(ctx, live); err != nil {
		return err
	}
	if err := sw.condemnRecipes(ctx); err != nil {
		return err
	}
	missing, err := sw.count(ctx)
	if err != nil {
		return err
	}
	if missing || len(sw.marker.unread) > 0 {
		if err := sw.findDamage(ctx, live); err != nil {
			return err
		}
	}
	if err := sw.dropDeadPacks(ctx); err != nil {
		return err
	}
	if err := sw.deleteObjects(ctx); err != nil {
		return err
	}
	if err := sw.dropDeadBlocks(ctx); err != nil {
		return err
	}
	if sw.opts.DeadFraction > 0 {
		if err := sw.compact(ctx); err != nil {
			return err
		}
	}
	if err := sw.index.db.Shrink(ctx); err != nil {
		return err
	}
	sw.index.db.FillReserve()
	return nil
}

// begin closes the open block and has everything up to the boundary indexed. If
// the disk is full that may fail: then what is not indexed stays out of it.
func (sw *sweep) begin(ctx context.Context) error {
	sw.mu.Lock()
	open := sw.sealOpen()
	sw.boundary = sw.lastBlock
	sw.mu.Unlock()
	sw.submit(open)
	err := sw.sync(ctx)
	if errors.Is(err, syscall.ENOSPC) && sw.index.db.FreeReserve() {
		err = sw.sync(ctx)
	}
	if errors.Is(err, syscall.ENOSPC) {
		sw.log.Warn("disk is full; sweeping without the newest data", "err", err)
		err = nil
	}
	return err
}

// condemnRecipes marks the chunks of the large blobs that stay and condemns the
// others.
func (sw *sweep) condemnRecipes(ctx context.Context) error {
	digests, err := sw.index.recipes(ctx, sw.boundary)
	if err != nil {
		return err
	}
	dead := make(map[castore.Digest]struct{})
	keep := digests[:0]
	sw.gate.Lock()
	for _, d := range digests {
		if sw.marker.live(d) || sw.holds.Held(d) {
			keep = append(keep, d)
		} else {
			dead[d] = struct{}{}
		}
	}
	sw.condemned.objects = dead
	sw.gate.Unlock()
	for _, d := range keep {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := sw.marker.markChunks(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// block returns the row of a block; nil if it is gone.
func (sw *sweep) block(id uint64) *blockRow {
	i := sort.Search(len(sw.blocks), func(i int) bool { return sw.blocks[i].id >= id })
	if i == len(sw.blocks) || sw.blocks[i].id != id {
		return nil
	}
	return &sw.blocks[i]
}

// dies tells whether an object is dead at this moment.
func (sw *sweep) dies(d castore.Digest) bool {
	if sw.marker.live(d) {
		return false
	}
	if _, ok := sw.condemned.objects[d]; ok {
		return true
	}
	return !sw.holds.Held(d)
}

// count adds up what lives in each block. It tells whether a blob or chunk that the
// live roots need is not in the index.
func (sw *sweep) count(ctx context.Context) (missing bool, err error) {
	if sw.blocks, err = sw.index.blocks(ctx, sw.boundary, 0); err != nil {
		return false, err
	}
	needed := sw.marker.roots.files
	seen := 0
	err = sw.index.scan(ctx, func(rows []objectRow) error {
		for i := range rows {
			b := sw.block(rows[i].block)
			if b != nil {
				b.count(&rows[i], !sw.dies(rows[i].digest))
			}
			if (b != nil || rows[i].block > sw.boundary) && needed.has(rows[i].digest) {
				seen++
			}
		}
		return ctx.Err()
	})
	return seen < needed.size(), err
}

// findDamage ends a sweep that cannot reach everything alive, unless what was
// missed is there after all, in memory.
func (sw *sweep) findDamage(ctx context.Context, live castore.LiveSet) error {
	found, err := damage.Find(ctx, damageSource{sw.Store}, live)
	if err != nil {
		return err
	}
	for _, err := range sw.marker.unread {
		if len(found) == 0 {
			// Only held, or mended meanwhile; the walk went without it.
			found = append(found, castore.DamagedObject{Err: err})
		}
	}
	if len(found) == 0 {
		return nil
	}
	for _, o := range found {
		sw.log.Error("something alive cannot be read; nothing is swept", "root", o.Root.Digest, "err", o.Err)
	}
	return &castore.DamageError{Objects: found}
}

func (b *blockRow) count(o *objectRow, alive bool) {
	switch {
	case !alive:
		b.deadN++
	case o.recipe:
		b.liveN++
		b.live = b.raw
	default:
		b.liveN++
		b.live += uint32(o.size)
	}
}

// packLife sums up the blocks of a pack.
type packLife struct {
	live   bool   // something is alive
	stored int64  // bytes of the pack that hold what is alive, about
	deadN  uint64 // dead objects
	dead   uint64 // and their bytes
}

func (sw *sweep) packLives() map[uint32]*packLife {
	lives := make(map[uint32]*packLife)
	for i := range sw.blocks {
		b := &sw.blocks[i]
		p := lives[b.pack]
		if p == nil {
			p = new(packLife)
			lives[b.pack] = p
		}
		switch {
		case b.kind == KindPathInfo:
			p.live = true
			p.stored += int64(b.length)
		case b.liveN > 0:
			p.live = true
			p.stored += int64(b.length) * int64(b.live) / int64(max(b.raw, 1))
		}
		p.deadN += uint64(b.deadN)
		if b.kind == KindData {
			p.dead += uint64(b.raw - min(b.live, b.raw))
		}
	}
	return lives
}

// dropDeadPacks unlinks the packs in which nothing lives.
func (sw *sweep) dropDeadPacks(ctx context.Context) error {
	var dead []uint32
	lives := sw.packLives()
	for id, p := range lives {
		if !p.live {
			dead = append(dead, id)
		}
	}
	slices.Sort(dead)
	dead, err := sw.condemnPacks(ctx, dead)
	if err != nil || len(dead) == 0 {
		return err
	}
	// The roots that made them dead must not come back either.
	if err := sw.index.db.Flush(); err != nil {
		return err
	}
	for _, id := range dead {
		n, err := sw.packs.remove(id)
		if err != nil {
			return err
		}
		sw.freed(n)
		sw.res.Dropped += lives[id].deadN
		sw.res.DroppedBytes += lives[id].dead
	}
	if err := sw.index.deletePacks(ctx, dead); err != nil {
		return err
	}
	sw.blocks = slices.DeleteFunc(sw.blocks, func(b blockRow) bool {
		if !slices.Contains(dead, b.pack) {
			return false
		}
		sw.cache.forget(b.id)
		return true
	})
	_, err = sw.index.purge(ctx)
	return err
}

func (sw *sweep) freed(n int64) {
	sw.res.FreedBytes += uint64(n)
	if sw.opts.Progress != nil {
		sw.opts.Progress(sw.res.FreedBytes)
	}
}

// condemnPacks condemns those packs to which nothing is added and in which
// nothing was found present since the sweep began, and returns them.
func (sw *sweep) condemnPacks(ctx context.Context, ids []uint32) ([]uint32, error) {
	ids, err := sw.idlePacks(ctx, ids)
	if err != nil {
		return nil, err
	}
	sw.gate.Lock()
	defer sw.gate.Unlock()
	ids = slices.DeleteFunc(ids, sw.condemned.wasFound)
	sw.condemned.packs = make(map[uint32]struct{}, len(ids))
	for _, id := range ids {
		sw.condemned.packs[id] = struct{}{}
	}
	return ids, nil
}

// idlePacks returns those of the packs that hold no block after the boundary and
// get none any more.
func (sw *sweep) idlePacks(ctx context.Context, ids []uint32) ([]uint32, error) {
	// No synchronisation may be between a durable block and its index row.
	sw.syncMu.Lock()
	defer sw.syncMu.Unlock()
	ids = slices.DeleteFunc(ids, func(id uint32) bool { return !sw.append.retire(id) })
	sw.mu.Lock()
	for _, b := range sw.unsynced {
		ids = slices.DeleteFunc(ids, func(id uint32) bool { return id == b.at.pack })
	}
	sw.mu.Unlock()
	var idle []uint32
	err := sw.index.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		for _, id := range ids {
			var busy bool
			err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM castore_blocks WHERE pack = ? AND id > ?)", id, sw.boundary).Scan(&busy)
			if err != nil {
				return err
			}
			if !busy {
				idle = append(idle, id)
			}
		}
		return nil
	})
	return idle, err
}

// deleteObjects deletes the rows of dead objects, and counts anew what lives.
func (sw *sweep) deleteObjects(ctx context.Context) error {
	for i := range sw.blocks {
		b := &sw.blocks[i]
		b.live, b.liveN, b.deadN = 0, 0, 0
	}
	var doomed []objectRow
	err := sw.index.scan(ctx, func(rows []objectRow) error {
		for i := range rows {
			o := &rows[i]
			if o.block > sw.boundary {
				sw.res.Live++
				continue
			}
			if sw.block(o.block) == nil || sw.dies(o.digest) {
				doomed = append(doomed, *o)
			} else {
				sw.survives(o)
			}
		}
		for len(doomed) > 0 {
			n := min(len(doomed), deleteBatch)
			if err := sw.deleteBatch(ctx, doomed[:n]); err != nil {
				return err
			}
			doomed = doomed[n:]
		}
		doomed = doomed[:0]
		return ctx.Err()
	})
	return err
}

func (sw *sweep) survives(o *objectRow) {
	sw.res.Live++
	if b := sw.block(o.block); b != nil {
		b.count(o, true)
	}
}

// deleteBatch condemns objects, unless they are held by now, and deletes their
// rows.
func (sw *sweep) deleteBatch(ctx context.Context, batch []objectRow) error {
	doomed := batch[:0]
	sw.gate.Lock()
	for i := range batch {
		if o := batch[i]; sw.dies(o.digest) {
			sw.condemned.objects[o.digest] = struct{}{}
			doomed = append(doomed, o)
		} else {
			sw.survives(&o)
		}
	}
	sw.gate.Unlock()
	holed := sw.punch(doomed)
	err := sw.index.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
		for _, id := range holed {
			if _, err := tx.Exec("UPDATE castore_blocks SET holes = 1 WHERE id = ?", id); err != nil {
				return err
			}
		}
		for i := range doomed {
			// Not if the object was stored anew: then its block is another.
			_, err := tx.Exec("DELETE FROM castore_objects WHERE digest = ? AND block = ?",
				doomed[i].digest[:], doomed[i].block)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	sw.gate.Lock()
	defer sw.gate.Unlock()
	for i := range doomed {
		delete(sw.condemned.objects, doomed[i].digest)
		sw.res.Dropped++
		if !doomed[i].recipe {
			sw.res.DroppedBytes += doomed[i].size
		}
	}
	return nil
}

// punch makes holes in the blocks of objects that are about to go, before they go,
// and returns those blocks that had none.
func (sw *sweep) punch(doomed []objectRow) (holed []uint64) {
	for i := range doomed {
		id := doomed[i].block
		if _, ok := sw.punched[id]; !ok {
			sw.punched[id] = struct{}{}
			sw.cache.punch(id)
			holed = append(holed, id)
		}
	}
	return holed
}

// dropDeadBlocks deletes the rows of blocks without objects.
func (sw *sweep) dropDeadBlocks(ctx context.Context) error {
	var dead []uint64
	sw.blocks = slices.DeleteFunc(sw.blocks, func(b blockRow) bool {
		if b.liveN > 0 || b.kind == KindPathInfo {
			return false
		}
		dead = append(dead, b.id)
		return true
	})
	for batch := range slices.Chunk(dead, deleteBatch) {
		err := sw.index.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
			for _, id := range batch {
				if _, err := tx.Exec("DELETE FROM castore_blocks WHERE id = ?", id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range batch {
			sw.cache.forget(id)
		}
	}
	return nil
}
