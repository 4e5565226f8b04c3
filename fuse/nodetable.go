package fuse

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"github.com/tvixd/tvixd/castore"
)

// memoryTable is a nodeTable in memory of about 110 bytes a node. Numbers are
// places in an array, so that finding a node by its number costs nothing; an
// index of hashes finds the number of a node. Both are cut into shards by the
// hash of the node, each with a lock of its own.
type memoryTable struct {
	seed   maphash.Seed
	shards [tableShards]tableShard
}

const (
	shardBits   = 6
	tableShards = 1 << shardBits
	chunkSize   = 128
)

type tableShard struct {
	mu         sync.RWMutex
	index      hashIndex
	chunks     []*chunk // nil where all records are free
	roomy      []uint32 // the chunks that have free records, each once
	generation uint32   // of the record made last
	used       int
}

type chunk struct {
	records [chunkSize]record
	unused  []uint8
}

// record is a place for a node; it is free when it has no references.
type record struct {
	node
	references uint64
	generation uint32
}

func newMemoryTable() *memoryTable {
	return &memoryTable{seed: maphash.MakeSeed()}
}

func (t *memoryTable) remember(n *node) (id, generation uint64) {
	hash := t.hash(n)
	number := hash % tableShards
	s := &t.shards[number]
	short := uint32(hash >> 32)
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, found := s.index.find(short, func(slot uint32) bool { return s.at(slot).same(n) })
	r := s.at(slot)
	if !found {
		slot = s.allocate()
		s.index.insert(short, slot)
		s.generation++
		r = s.at(slot)
		*r = record{node: *n, generation: s.generation}
	}
	r.references++
	if n.kind == castore.KindFile {
		// The newest place: the one most likely to be alive.
		r.parent, r.text = n.parent, n.text
	}
	return (uint64(slot)+1)<<shardBits | number, uint64(r.generation)
}

func (t *memoryTable) get(id uint64) (node, bool) {
	s := &t.shards[id%tableShards]
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.record(id)
	if r == nil {
		return node{}, false
	}
	return r.node, true
}

func (t *memoryTable) forget(id, references uint64) {
	s := &t.shards[id%tableShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record(id)
	if r == nil {
		return
	}
	if references < r.references {
		r.references -= references
		return
	}
	slot := uint32(id>>shardBits - 1)
	s.index.remove(uint32(t.hash(&r.node)>>32), slot)
	s.free(slot)
}

func (t *memoryTable) len() int {
	sum := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		sum += s.used
		s.mu.RUnlock()
	}
	return sum
}

// same tells whether the kernel may see one node for both. The size belongs to
// it although the digest implies it: what a directory says of a blob's size may
// be wrong, and must not change the size of a file that another one shows.
func (r *record) same(n *node) bool {
	if r.kind != n.kind {
		return false
	}
	switch n.kind {
	case castore.KindDirectory:
		return r.parent == n.parent && r.index == n.index && r.digest == n.digest && r.text == n.text
	case castore.KindSymlink:
		return r.text == n.text
	default:
		return r.digest == n.digest && r.executable == n.executable && r.size == n.size
	}
}

// hash spreads nodes over shards (its lowest bits) and indexes (its upper half).
func (t *memoryTable) hash(n *node) uint64 {
	switch n.kind {
	case castore.KindDirectory:
		place := mix64(n.parent)*31 + uint64(n.index)
		if n.text != "" {
			place = maphash.String(t.seed, n.text)
		}
		return mix64(place)
	case castore.KindSymlink:
		return maphash.String(t.seed, n.text)
	default:
		return mix64(binary.LittleEndian.Uint64(n.digest[:]))
	}
}

// record returns the record of a number, nil if the number is not in use.
func (s *tableShard) record(id uint64) *record {
	slot := id>>shardBits - 1
	if slot/chunkSize >= uint64(len(s.chunks)) || s.chunks[slot/chunkSize] == nil {
		return nil
	}
	r := &s.chunks[slot/chunkSize].records[slot%chunkSize]
	if r.references == 0 {
		return nil
	}
	return r
}

// at returns a record in use; nil for a slot that does not exist.
func (s *tableShard) at(slot uint32) *record {
	if slot == noSlot {
		return nil
	}
	return &s.chunks[slot/chunkSize].records[slot%chunkSize]
}

func (s *tableShard) allocate() (slot uint32) {
	if len(s.roomy) == 0 {
		s.roomy = append(s.roomy, uint32(len(s.chunks)))
		s.chunks = append(s.chunks, nil)
	}
	number := s.roomy[len(s.roomy)-1]
	c := s.chunks[number]
	if c == nil {
		c = newChunk()
		s.chunks[number] = c
	}
	last := len(c.unused) - 1
	slot = number*chunkSize + uint32(c.unused[last])
	c.unused = c.unused[:last]
	if last == 0 {
		s.roomy = s.roomy[:len(s.roomy)-1]
	}
	s.used++
	return slot
}

func (s *tableShard) free(slot uint32) {
	number := slot / chunkSize
	c := s.chunks[number]
	c.records[slot%chunkSize] = record{}
	if len(c.unused) == 0 {
		s.roomy = append(s.roomy, number)
	}
	c.unused = append(c.unused, uint8(slot%chunkSize))
	if len(c.unused) == chunkSize {
		s.chunks[number] = nil
	}
	s.used--
}

func newChunk() *chunk {
	c := &chunk{unused: make([]uint8, chunkSize)}
	for i := range c.unused {
		c.unused[i] = uint8(chunkSize - 1 - i)
	}
	return c
}
