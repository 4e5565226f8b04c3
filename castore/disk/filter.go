package disk

import (
	"context"
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// filter is a Bloom filter over the digests in the store. Most of what is put is
// new, and to find that out in the index costs more than to hash a small file;
// the filter says it at once, except for one in some hundred.
//
// A digest sets six bits in one line of 512, chosen by bits of its own, which are
// as good as any hash.
type filter struct {
	lines    []filterLine // a power of two
	capacity int64
	n        atomic.Int64 // digests added, about
}

type filterLine [8]atomic.Uint64

// bitsPerDigest is the memory for each digest that a filter is made for.
const bitsPerDigest = 12

// minFilter is the number of digests that the smallest filter is made for.
const minFilter = 1 << 18

func newFilter(capacity int64) *filter {
	lines := 1 << bits.Len64(uint64(capacity)*bitsPerDigest/512)
	return &filter{lines: make([]filterLine, lines), capacity: int64(lines) * 512 / bitsPerDigest}
}

// place returns the line of a digest and the bits to choose in it.
func (f *filter) place(d castore.Digest) (line *filterLine, choice uint64) {
	i := binary.LittleEndian.Uint64(d[:]) & uint64(len(f.lines)-1)
	return &f.lines[i], binary.LittleEndian.Uint64(d[8:])
}

func (f *filter) add(d castore.Digest) {
	f.n.Add(1)
	line, choice := f.place(d)
	for range 6 {
		bit := choice & 511
		line[bit>>6].Or(1 << (bit & 63))
		choice >>= 9
	}
}

// mayHave is false only for digests that were not added.
func (f *filter) mayHave(d castore.Digest) bool {
	line, choice := f.place(d)
	for range 6 {
		bit := choice & 511
		if line[bit>>6].Load()&(1<<(bit&63)) == 0 {
			return false
		}
		choice >>= 9
	}
	return true
}

// presence is the filter in use, and the one that will replace it. It is empty
// until the first was filled from the index.
type presence struct {
	current, next atomic.Pointer[filter]
}

// add notes a digest that becomes pending. The caller holds Store.mu.
func (p *presence) add(d castore.Digest) {
	if f := p.current.Load(); f != nil {
		f.add(d)
	}
	if f := p.next.Load(); f != nil {
		f.add(d)
	}
}

// absent tells that a digest is neither pending nor in the index.
func (p *presence) absent(d castore.Digest) bool {
	f := p.current.Load()
	return f != nil && !f.mayHave(d)
}

// full tells that the filter has become too small, or does not exist.
func (p *presence) full() bool {
	f := p.current.Load()
	return f == nil || f.n.Load() > f.capacity
}

// filterLoop makes the filter, and larger ones as they are needed.
func (s *Store) filterLoop(ctx context.Context) {
	defer s.workers.Done()
	for {
		select {
		case <-s.grow:
			if !s.presence.full() {
				continue
			}
			if err := s.fillFilter(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot make the filter of present digests", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// fillFilter makes a new filter from the index. What is put meanwhile is added by
// the puts themselves.
func (s *Store) fillFilter(ctx context.Context) error {
	var count int64
	err := s.index.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow("SELECT count(*) FROM castore_objects").Scan(&count)
	})
	if err != nil {
		return err
	}
	f := newFilter(max(2*count, minFilter))
	s.mu.Lock()
	s.presence.next.Store(f)
	for d := range s.pending {
		f.add(d)
	}
	s.mu.Unlock()
	err = s.index.scan(ctx, func(rows []objectRow) error {
		for i := range rows {
			f.add(rows[i].digest)
		}
		return ctx.Err()
	})
	if err == nil {
		s.presence.current.Store(f)
	}
	s.presence.next.Store(nil)
	return err
}
