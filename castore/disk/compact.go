package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

const (
	// compactBatch is how much is moved before the index learns of it.
	compactBatch = 64 << 20
	// compactSlack is the space that must stay available beside a copy.
	compactSlack = 8 << 20
)

// compact rewrites the packs of which enough is dead. Damage in a pack leaves it
// as it is; for want of space the dead parts are cut out where they lie.
func (sw *sweep) compact(ctx context.Context) error {
	type candidate struct {
		id           uint32
		size, stored int64
	}
	var todo []candidate
	lives := sw.packLives()
	rows, err := sw.index.packs(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		c := candidate{id: row.id, size: row.size}
		if p := lives[row.id]; p != nil {
			c.stored = p.stored
		}
		if float64(c.size-packHeaderSize-c.stored) >= sw.opts.DeadFraction*float64(c.size) {
			todo = append(todo, c)
		}
	}
	// The deadest first: they need the least room and give the most.
	slices.SortFunc(todo, func(a, b candidate) int { return cmp.Compare(a.stored, b.stored) })
	for _, c := range todo {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !sw.hasRoom(c.stored) {
			n, err := sw.punchPack(ctx, c.id)
			if err != nil {
				return err
			}
			sw.freed(n)
			if !sw.hasRoom(c.stored) {
				continue
			}
		}
		if idle, err := sw.idlePacks(ctx, []uint32{c.id}); err != nil || len(idle) == 0 {
			if err != nil {
				return err
			}
			continue
		}
		switch err := sw.compactPack(ctx, c.id); {
		case errors.Is(err, syscall.ENOSPC):
			sw.log.Warn("no room to compact pack", "pack", c.id, "err", err)
		case errors.Is(err, errFormat), errors.Is(err, errChecksum):
			sw.log.Warn("damaged pack is not compacted", "pack", c.id, "err", err)
		case err != nil:
			return fmt.Errorf("compact pack %06d: %w", c.id, err)
		}
	}
	return nil
}

// hasRoom tells whether there is space for n bytes more.
func (sw *sweep) hasRoom(n int64) bool {
	if n == 0 {
		return true
	}
	var st unix.Statfs_t
	if err := unix.Statfs(sw.packs.dir, &st); err != nil {
		return true // the append will tell
	}
	return int64(st.Bavail)*st.Bsize > n+compactSlack
}

// move is a change of the index: a block that is somewhere else now, or, with a
// table, a new block that takes objects over from old ones.
type move struct {
	id    uint64
	at    place
	table []tableEntry
	from  []uint64 // for each entry of the table the block that it was in
	raw   int
}

// mover copies what is alive out of one pack.
type mover struct {
	*sweep
	pack    uint32
	moves   []move
	emptied []uint64 // blocks of which everything that lives has moved
	bytes   int64    // appended since the last commit
	copied  int64    // appended altogether
	// The block that is being filled with the rest of others.
	raw   []byte
	table []tableEntry
	from  []uint64
}

func (sw *sweep) compactPack(ctx context.Context, id uint32) error {
	m := &mover{sweep: sw, pack: id}
	blocks, err := sw.index.blocks(ctx, sw.boundary, id)
	if err != nil {
		return err
	}
	for i := range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.moveBlock(ctx, &blocks[i]); err != nil {
			return err
		}
		if m.bytes >= compactBatch {
			if err := m.commit(ctx, false); err != nil {
				return err
			}
		}
	}
	if err := m.flush(); err != nil {
		return err
	}
	if err := m.commit(ctx, true); err != nil {
		return err
	}
	if err := sw.index.db.Flush(); err != nil {
		return err
	}
	n, err := sw.packs.remove(id)
	if err != nil {
		return err
	}
	sw.freed(max(0, n-m.copied))
	return sw.index.deletePacks(ctx, []uint32{id})
}

// moveBlock copies a block as it is if all of it lives, or what lives of it into
// the block that is being filled.
func (m *mover) moveBlock(ctx context.Context, b *blockRow) error {
	at := place{m.pack, b.offset, int64(b.length)}
	rec, salt, err := m.packs.readRecord(at)
	if err != nil {
		return err
	}
	defer putBuf(rec)
	info := m.block(b.id)
	if b.kind != KindData || info != nil && info.live == b.raw {
		// A record that is not what it was must not get a fresh header.
		if _, _, _, err := splitRecord(rec, salt.short(), at.offset); err != nil {
			return err
		}
		to, err := m.append.append(rec)
		if err != nil {
			return err
		}
		m.moves = append(m.moves, move{id: b.id, at: to})
		m.bytes += to.length
		m.copied += to.length
		return nil
	}
	blk, err := decodeRecord(rec, salt.short(), at.offset, nil)
	if err != nil {
		return wrapDamage(err)
	}
	m.emptied = append(m.emptied, b.id)
	alive, err := m.aliveIn(ctx, b.id, blk)
	if err != nil {
		return err
	}
	for _, slot := range alive {
		e := blk.table[slot]
		data, err := blk.object(slot, e.digest)
		if err != nil {
			return err
		}
		if len(m.raw) > 0 && (len(m.raw)+len(data) > blockTarget || len(m.table) == maxShare) {
			if err := m.flush(); err != nil {
				return err
			}
		}
		m.raw = append(m.raw, data...)
		m.table = append(m.table, e)
		m.from = append(m.from, b.id)
	}
	return nil
}

// aliveIn returns the slots of a block whose objects the index has there.
func (m *mover) aliveIn(ctx context.Context, id uint64, blk *block) (slots []uint32, err error) {
	order := make([]uint32, len(blk.table))
	for i := range order {
		order[i] = uint32(i)
	}
	// In the order of the table's pages.
	slices.SortFunc(order, func(a, b uint32) int { return blk.table[a].digest.Compare(blk.table[b].digest) })
	err = m.index.db.Read(ctx, func(tx *sqldb.Tx) error {
		for _, slot := range order {
			var there bool
			err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM castore_objects WHERE digest = ? AND block = ? AND slot = ?)",
				blk.table[slot].digest[:], id, slot).Scan(&there)
			if err != nil {
				return err
			}
			if there {
				slots = append(slots, slot)
			}
		}
		return nil
	})
	slices.Sort(slots)
	return slots, err
}

// flush appends the block that is being filled.
func (m *mover) flush() error {
	if len(m.table) == 0 {
		return nil
	}
	rec := encodeRecord(KindData, m.table, m.raw, m.Store.opts.Compression)
	defer putBuf(rec)
	to, err := m.append.append(rec)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.lastBlock++
	id := m.lastBlock
	m.mu.Unlock()
	m.moves = append(m.moves, move{id: id, at: to, table: m.table, from: m.from, raw: len(m.raw)})
	m.bytes += to.length
	m.copied += to.length
	m.raw, m.table, m.from = m.raw[:0], nil, nil
	return nil
}

// commit makes the copies durable and tells the index; last declares the pack
// dead in the same transaction.
func (m *mover) commit(ctx context.Context, last bool) error {
	m.syncMu.Lock()
	defer m.syncMu.Unlock()
	ends, err := m.append.sync()
	if err != nil {
		return err
	}
	err = m.index.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
		if err := insertPacks(tx, ends); err != nil {
			return err
		}
		if err := applyMoves(tx, m.moves); err != nil {
			return err
		}
		if !last {
			return nil
		}
		for _, id := range m.emptied {
			if _, err := tx.Exec("DELETE FROM castore_blocks WHERE id = ?", id); err != nil {
				return err
			}
		}
		_, err := tx.Exec("UPDATE castore_packs SET dead = 1 WHERE id = ?", m.pack)
		return err
	})
	if err != nil {
		return err
	}
	m.append.settle(ends)
	if last {
		for _, id := range m.emptied {
			m.cache.forget(id)
		}
	}
	for i := range m.moves {
		m.health.setGood(m.moves[i].id)
	}
	m.moves, m.bytes = nil, 0
	return nil
}

// applyMoves changes the index, except where an object was stored anew meanwhile.
func applyMoves(tx *sqldb.Tx, moves []move) error {
	type row struct {
		digest   castore.Digest
		from, to uint64
		slot     int
	}
	var rows []row
	for i := range moves {
		mv := &moves[i]
		if mv.table == nil {
			_, err := tx.Exec("UPDATE castore_blocks SET pack = ?, offset = ?, length = ? WHERE id = ?",
				mv.at.pack, mv.at.offset, mv.at.length, mv.id)
			if err != nil {
				return err
			}
			continue
		}
		if err := insertBlock(tx, mv.id, KindData, mv.raw, mv.at); err != nil {
			return err
		}
		for slot := range mv.table {
			rows = append(rows, row{mv.table[slot].digest, mv.from[slot], mv.id, slot})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return a.digest.Compare(b.digest) })
	for i := range rows {
		r := &rows[i]
		_, err := tx.Exec("UPDATE castore_objects SET block = ?, slot = ? WHERE digest = ? AND block = ?",
			r.to, r.slot, r.digest[:], r.from)
		if err != nil {
			return err
		}
	}
	return nil
}
