package disk

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/tvixd/tvixd/castore"
)

// digestSet is a set of digests for millions of members. It keeps the first 128
// bits of each, in 21 to 43 bytes a member: that is as much as nobody can make
// two objects agree in.
type digestSet struct {
	slots [][2]uint64 // a power of two; the zero slot is empty
	n     int
	zero  bool   // the member of which the first 128 bits are zero
	mix   uint64 // odd and random, so that no input can pile up in one place
}

func newDigestSet() *digestSet {
	return &digestSet{slots: make([][2]uint64, 1024), mix: rand.Uint64() | 1}
}

func digestKey(d castore.Digest) [2]uint64 {
	return [2]uint64{binary.LittleEndian.Uint64(d[:]), binary.LittleEndian.Uint64(d[8:])}
}

// slot returns the index of the key's slot, or of the empty slot to put it in.
func (s *digestSet) slot(key [2]uint64) uint64 {
	mask := uint64(len(s.slots) - 1)
	i := (key[0] * s.mix >> 20) & mask
	for s.slots[i] != key && s.slots[i] != ([2]uint64{}) {
		i = (i + 1) & mask
	}
	return i
}

// add tells whether the digest was not in the set before.
func (s *digestSet) add(d castore.Digest) bool {
	key := digestKey(d)
	if key == ([2]uint64{}) {
		was := s.zero
		s.zero = true
		return !was
	}
	i := s.slot(key)
	if s.slots[i] == key {
		return false
	}
	s.slots[i] = key
	if s.n++; s.n*4 > len(s.slots)*3 {
		old := s.slots
		s.slots = make([][2]uint64, 2*len(old))
		for _, k := range old {
			if k != ([2]uint64{}) {
				s.slots[s.slot(k)] = k
			}
		}
	}
	return true
}

func (s *digestSet) has(d castore.Digest) bool {
	key := digestKey(d)
	if key == ([2]uint64{}) {
		return s.zero
	}
	return s.slots[s.slot(key)] == key
}

// size is the number of members.
func (s *digestSet) size() int {
	if s.zero {
		return s.n + 1
	}
	return s.n
}
