package refscan

import (
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// Rewriter is an io.Writer that passes on what is written to it with certain
// hash parts replaced. It holds back up to 31 bytes until more is written or
// it is closed. It is for one goroutine.
type Rewriter struct {
	dst          io.Writer
	set          *set
	replacements []hashPart // by element of set

	buf     []byte // what is held back, then the present write
	pos     uint64 // the offset of buf in the stream
	onMatch func(pos uint64)
	err     error
}

// NewRewriter returns a rewriter to dst. The keys of rewrites are hash parts of
// 32 characters, and so are the values, though they may be any bytes.
func NewRewriter(dst io.Writer, rewrites map[string]string) (*Rewriter, error) {
	r := &Rewriter{dst: dst, set: newSet(len(rewrites))}
	for from, to := range rewrites {
		if len(from) != hashLen || len(to) != hashLen {
			return nil, fmt.Errorf("rewrite %q to %q: both must have %d characters", from, to, hashLen)
		}
		r.set.add(hashPart([]byte(from)))
		r.replacements = append(r.replacements, hashPart([]byte(to)))
	}
	return r, nil
}

// maxWrite bounds the rewriter's buffer, whatever the size of a write.
const maxWrite = 64 << 10

// Write implements io.Writer. After an error of the destination every call
// returns it.
func (r *Rewriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 && r.err == nil {
		k := min(len(p), maxWrite)
		r.buf = append(r.buf, p[:k]...)
		r.rewrite()
		n += k
		p = p[k:]
	}
	return n, r.err
}

func (r *Rewriter) rewrite() {
	end := 0 // behind the last match
	rest := r.set.find(r.buf, func(offset, element int) int {
		copy(r.buf[offset:], r.replacements[element][:])
		if r.onMatch != nil {
			r.onMatch(r.pos + uint64(offset))
		}
		end = offset + hashLen
		return end
	})
	// A replacement must not take part in another match.
	r.flush(max(rest, end))
}

func (r *Rewriter) flush(n int) {
	if n == 0 || r.err != nil {
		return
	}
	_, r.err = r.dst.Write(r.buf[:n])
	r.pos += uint64(n)
	r.buf = r.buf[:copy(r.buf, r.buf[n:])]
}

// Close passes on what is held back. It does not close the destination.
func (r *Rewriter) Close() error {
	r.flush(len(r.buf))
	return r.err
}

// maxMatches bounds the memory that a HashModulo takes for a stream full of
// the hash part.
const maxMatches = 1 << 20

// HashModulo is an io.Writer that hashes what is written to it, with a hash
// part taken as 32 zero bytes: the hash of contents that may refer to
// themselves.
type HashModulo struct {
	algo    nixhash.Algo
	hash    hash.Hash
	rw      *Rewriter
	matches []uint64
}

// NewHashModulo returns a hasher that leaves out the hash part of self.
func NewHashModulo(algo nixhash.Algo, self storepath.Path) *HashModulo {
	h := &HashModulo{algo: algo, hash: algo.New()}
	h.rw = &Rewriter{
		dst:          h.hash,
		set:          newSet(1),
		replacements: make([]hashPart, 1),
		onMatch: func(pos uint64) {
			if len(h.matches) <= maxMatches {
				h.matches = append(h.matches, pos)
			}
		},
	}
	h.rw.set.add(hashPart([]byte(self.HashPart())))
	return h
}

// Write implements io.Writer. It never fails.
func (h *HashModulo) Write(p []byte) (int, error) { return h.rw.Write(p) }

// Sum ends the stream and returns its hash. Older versions of Nix (2.8 does)
// hash the offsets of the hash part, too: that is legacy, which equals sum if
// the hash part did not occur, and is no hash if it occurred more than a
// million times.
func (h *HashModulo) Sum() (sum, legacy nixhash.Hash) {
	_ = h.rw.Close() // hashes do not fail
	sum = nixhash.Finish(h.algo, h.hash)
	if len(h.matches) > maxMatches {
		return sum, nixhash.Hash{}
	}
	var b []byte
	for _, pos := range h.matches {
		b = strconv.AppendUint(append(b, '|'), pos, 10)
	}
	h.hash.Write(b)
	return sum, nixhash.Finish(h.algo, h.hash)
}
