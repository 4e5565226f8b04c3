// Package refscan finds and rewrites the hash parts of store paths in streams
// of bytes.
//
// A hash part is 32 characters of Nix's base 32, so a stream can only hold one
// where 32 such characters follow each other. The search looks at the last
// byte of the next possible window first and skips the whole window when that
// byte is no base 32 character, as Boyer and Moore would: most inputs are read
// at one byte in thirty. Where there is a run of 32 or more, each window is
// looked up once, behind a bit map that is made to answer "no". The time does
// not depend on the number of hash parts that are looked for.
package refscan

import (
	"encoding/binary"
	"math/bits"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// hashLen is the number of characters of a hash part.
const hashLen = storepath.HashLen

// isNix32 tells the characters of Nix's base 32 from all others.
var isNix32 = func() (t [256]bool) {
	for c := range 256 {
		t[c] = nixhash.IsNix32(byte(c))
	}
	return t
}()

type hashPart = [hashLen]byte

// set is a set of hash parts, numbered in the order of insertion.
type set struct {
	index  map[hashPart]int
	filter []uint64 // a bit for each value of slot
	shift  uint     // slot's number of bits is 64-shift
}

func newSet(n int) *set {
	const bitsPerElement = 64 // one lookup in 64 passes the filter in vain
	logBits := max(bits.Len(uint(n*bitsPerElement)), 10)
	return &set{
		index:  make(map[hashPart]int, n),
		filter: make([]uint64, 1<<(logBits-6)),
		shift:  uint(64 - logBits),
	}
}

func (s *set) slot(window []byte) uint64 {
	const multiplier = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	return binary.LittleEndian.Uint64(window) * multiplier >> s.shift
}

func (s *set) add(part hashPart) {
	if _, ok := s.index[part]; ok {
		return
	}
	s.index[part] = len(s.index)
	slot := s.slot(part[:])
	s.filter[slot/64] |= 1 << (slot % 64)
}

// mayHave reports whether window may begin with an element, and is mostly
// right.
func (s *set) mayHave(window []byte) bool {
	slot := s.slot(window)
	return s.filter[slot/64]&(1<<(slot%64)) != 0
}

// lookup returns the number of the hash part that window begins with.
func (s *set) lookup(window []byte) (int, bool) {
	if !s.mayHave(window) {
		return 0, false
	}
	i, ok := s.index[hashPart(window)]
	return i, ok
}

// find calls visit for each window of data, from start on, that holds an
// element of the set, with the window's offset and the element's number. A
// visit returns the offset to go on from, more than the one it was given, or a
// negative one to stop. find returns the offset of the first window that it
// could not decide on because data ends within it: from there on data has
// nothing but base 32 characters.
func (s *set) find(data []byte, visit func(offset, element int) int) (rest int) {
	i, known := 0, 0 // the bytes from i up to known are base 32
	for i+hashLen <= len(data) {
		j := i + hashLen - 1
		for j >= known && isNix32[data[j]] {
			j--
		}
		if j >= known {
			// data[j] is in none: the next window begins behind it.
			known = i + hashLen
			i = j + 1
			continue
		}
		known = i + hashLen
		// A run: every window of it may be one that is looked for.
		for known < len(data) && !s.mayHave(data[i:]) && isNix32[data[known]] {
			i++
			known++
		}
		next := i + 1
		if element, ok := s.lookup(data[i:]); ok {
			if next = visit(i, element); next < 0 {
				return len(data)
			}
		}
		i = next
		known = max(known, i)
	}
	// Of the last, incomplete window only the tail of base 32 matters.
	for j := len(data) - 1; j >= max(i, known); j-- {
		if !isNix32[data[j]] {
			return j + 1
		}
	}
	return min(i, len(data))
}
