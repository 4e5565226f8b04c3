package disk

import (
	"context"
	"fmt"

	"github.com/tvixd/tvixd/castore"
)

// pendingBlock is a block that is not in the index yet. Its fields are guarded
// by Store.mu, except that table and raw are read without it once the block is
// sealed, when they do not change any more.
type pendingBlock struct {
	id     uint64
	kind   Kind
	table  []tableEntry
	ends   []uint32
	raw    []byte // the contents, from getBuf; nil once they are in a pack
	lent   bool   // somebody may still be reading raw
	rawLen int
	at     place         // valid when appended
	done   chan struct{} // closed when the block is appended or stuck
}

// pendingRef is a place in a pending block.
type pendingRef struct {
	block *pendingBlock
	slot  uint32
}

const (
	// blockTarget is the raw length at which a block of small objects is full.
	blockTarget = 256 << 10
	// maxShared is the length up to which objects share blocks.
	maxShared = 64 << 10
	// maxShare bounds the objects in one block, and so its table.
	maxShare = 2048
	// flushBytes and flushObjects are what may wait for a Sync before one is
	// made in the background, to bound memory; at flushFactor times as much,
	// puts wait for it.
	flushBytes   = 256 << 20
	flushObjects = 1 << 16
	flushFactor  = 4
)

// location describes a pending object. The caller holds mu.
func (r pendingRef) location() location {
	b := r.block
	loc := location{block: b.id, slot: r.slot, kind: b.kind, size: b.table[r.slot].length, at: b.at}
	if b.raw == nil {
		return loc
	}
	b.lent = true
	loc.mem = b.raw
	if b.kind == KindData {
		end := b.ends[r.slot]
		loc.mem = b.raw[end-uint32(loc.size) : end : end]
	}
	return loc
}

// newPending makes a block. The caller holds mu.
func (s *Store) newPending(kind Kind, raw []byte) *pendingBlock {
	s.lastBlock++
	return &pendingBlock{id: s.lastBlock, kind: kind, raw: raw, done: make(chan struct{})}
}

// addShared adds a small object to the open block, unless it is pending. It
// returns a block that became full, to be submitted.
func (s *Store) addShared(d castore.Digest, data []byte) (full *pendingBlock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pending[d]; ok {
		return nil
	}
	if s.open != nil && (len(s.open.raw)+len(data) > cap(s.open.raw) || len(s.open.table) == maxShare) {
		full = s.sealOpen()
	}
	if s.open == nil {
		// Never grown: readers hold slices of it.
		s.open = s.newPending(KindData, getBuf(blockTarget)[:0])
	}
	b := s.open
	s.pending[d] = pendingRef{b, uint32(len(b.table))}
	s.pendingN.Add(1)
	s.presence.add(d)
	b.raw = append(b.raw, data...)
	b.rawLen = len(b.raw)
	b.table = append(b.table, tableEntry{d, uint64(len(data))})
	b.ends = append(b.ends, uint32(len(b.raw)))
	return full
}

// addOwn makes a block of its own for an object of the given digest, unless it
// is pending, and returns it, sealed. It keeps raw. The length is that of the
// object, or of the whole blob for a recipe.
func (s *Store) addOwn(d castore.Digest, kind Kind, length uint64, raw []byte) *pendingBlock {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pending[d]; ok && kind != KindPathInfo {
		return nil
	}
	b := s.newPending(kind, raw)
	b.rawLen = len(raw)
	b.table = []tableEntry{{d, length}}
	b.ends = []uint32{uint32(len(raw))}
	if kind != KindPathInfo {
		s.pending[d] = pendingRef{b, 0}
		s.pendingN.Add(1)
		s.presence.add(d)
	}
	s.inflight[b] = struct{}{}
	return b
}

// sealOpen closes the open block, if there is one, and returns it. The caller
// holds mu and submits the block after unlocking it.
func (s *Store) sealOpen() *pendingBlock {
	b := s.open
	if b != nil {
		s.open = nil
		s.inflight[b] = struct{}{}
	}
	return b
}

// submit has a sealed block encoded and appended by a worker. It waits while all
// are busy.
func (s *Store) submit(b *pendingBlock) {
	if b != nil {
		s.jobs <- func() { s.store(b) }
	}
}

// store encodes and appends a sealed block. If that fails the block is stuck.
func (s *Store) store(b *pendingBlock) error {
	at, err := s.writeBlock(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inflight, b)
	close(b.done)
	if err != nil {
		s.stuck = append(s.stuck, b)
		s.stuckErr = err
		return err
	}
	s.appended(b, at)
	return nil
}

func (s *Store) writeBlock(b *pendingBlock) (place, error) {
	rec := encodeRecord(b.kind, b.table, b.raw, s.opts.Compression)
	defer putBuf(rec)
	return s.append.append(rec)
}

// appended records that a block is in a pack. The caller holds mu.
func (s *Store) appended(b *pendingBlock, at place) {
	b.at = at
	if !b.lent {
		putBuf(b.raw)
	}
	b.raw = nil
	s.health.setGood(b.id)
	s.unsynced = append(s.unsynced, b)
	s.unsyncedN += int64(b.rawLen)
	if s.unsyncedN > flushBytes || len(s.pending) > flushObjects {
		signal(s.flush)
	}
	if s.presence.full() {
		signal(s.grow)
	}
}

// signal asks for something in the background, unless that was done already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// retryStuck tries again to append the blocks that could not be. Puts are
// refused while it fails, so there are few.
func (s *Store) retryStuck() error {
	// While the list is empty below, nobody may believe that nothing is stuck
	// and call a synchronisation complete.
	s.retryMu.Lock()
	defer s.retryMu.Unlock()
	s.mu.Lock()
	stuck := s.stuck
	s.stuck = nil
	s.mu.Unlock()
	for i, b := range stuck {
		at, err := s.writeBlock(b)
		s.mu.Lock()
		if err != nil {
			s.stuck = append(s.stuck, stuck[i:]...)
			s.stuckErr = err
			s.mu.Unlock()
			return err
		}
		s.appended(b, at)
		s.mu.Unlock()
	}
	return nil
}

// admit makes room for a put: it fails while there are stuck blocks, and waits
// when too much is waiting for a synchronisation.
func (s *Store) admit(ctx context.Context) error {
	s.mu.Lock()
	stuck := len(s.stuck) > 0
	crowded := s.unsyncedN > flushFactor*flushBytes || len(s.pending) > flushFactor*flushObjects
	s.mu.Unlock()
	if stuck {
		if err := s.retryStuck(); err != nil {
			return fmt.Errorf("earlier data waits to be written: %w", err)
		}
	}
	if crowded {
		return s.sync(ctx)
	}
	return nil
}
