package disk

import (
	"math/bits"
	"sync"
)

// Buffers are pooled by capacity, in powers of two: what passes through the
// store comes in pieces of up to a megabyte, and fresh memory for each costs as
// much as copying it.
const (
	minBufShift = 16
	maxBufShift = 21
)

var bufPools [maxBufShift - minBufShift + 1]sync.Pool

// getBuf returns a buffer of n bytes with any contents.
func getBuf(n int) []byte {
	shift := max(bits.Len(uint(max(n, 1)-1)), minBufShift)
	if shift > maxBufShift {
		return make([]byte, n)
	}
	if p, ok := bufPools[shift-minBufShift].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<shift)
}

// putBuf gives a buffer back. Only the whole capacity of a buffer of getBuf may
// be given, and nobody may use it any more.
func putBuf(b []byte) {
	c := cap(b)
	shift := bits.Len(uint(c)) - 1
	if shift < minBufShift || shift > maxBufShift || c != 1<<shift {
		return
	}
	bufPools[shift-minBufShift].Put(&b)
}

// cloneBuf returns a copy of data in a buffer of getBuf.
func cloneBuf(data []byte) []byte {
	b := getBuf(len(data))
	copy(b, data)
	return b
}
