package store

import (
	"crypto/sha256"
	"hash"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/store/refscan"
	"github.com/tvixd/tvixd/storepath"
)

const (
	hashChunk  = 128 << 10
	hashChunks = 4
)

// narHasher is the destination of a NAR: it hashes and scans it, from start
// on in a goroutine of its own. Small NARs, which never start it, cost one
// buffer.
type narHasher struct {
	sha     hash.Hash
	scanner *refscan.Scanner // nil without candidates

	buf     []byte // from getBuffer: what was written and not hashed
	n       int    // bytes in buf
	total   uint64 // bytes written
	full    chan []byte
	free    chan []byte
	done    chan struct{}
	running bool
}

func (h *narHasher) init(candidates []storepath.Path) {
	h.sha = sha256.New()
	if len(candidates) > 0 {
		h.scanner = refscan.NewScanner(candidates)
	}
	h.buf = getBuffer(hashChunk)
}

func (h *narHasher) size() uint64 { return h.total }

// start makes hashing concurrent. It allows hashChunks buffers to be in use.
func (h *narHasher) start() {
	h.full = make(chan []byte, hashChunks)
	h.free = make(chan []byte, hashChunks)
	for range hashChunks - 1 {
		h.free <- nil // made when first needed
	}
	h.done = make(chan struct{})
	h.running = true
	go func() {
		defer close(h.done)
		for p := range h.full {
			h.sum(p)
			h.free <- p
		}
	}()
}

// Write implements io.Writer; it never fails.
func (h *narHasher) Write(p []byte) (int, error) {
	n := len(p)
	h.total += uint64(n)
	for len(p) > 0 {
		k := copy(h.buf[h.n:hashChunk], p)
		h.n += k
		p = p[k:]
		if h.n == hashChunk {
			h.flush()
		}
	}
	return n, nil
}

func (h *narHasher) flush() {
	if !h.running {
		h.sum(h.buf[:h.n])
		h.n = 0
		return
	}
	h.full <- h.buf[:h.n]
	h.buf = <-h.free
	if h.buf == nil {
		h.buf = getBuffer(hashChunk)
	}
	h.buf, h.n = h.buf[:hashChunk], 0
}

func (h *narHasher) sum(p []byte) {
	h.sha.Write(p)
	if h.scanner != nil {
		h.scanner.Write(p)
	}
}

// finish ends the stream and gives everything back.
func (h *narHasher) finish() (nixhash.Hash, uint64, []storepath.Path) {
	if h.running {
		close(h.full)
		<-h.done
	}
	h.sum(h.buf[:h.n])
	putBuffer(h.buf)
	for len(h.free) > 0 {
		if b := <-h.free; b != nil {
			putBuffer(b)
		}
	}
	var refs []storepath.Path
	if h.scanner != nil {
		refs = h.scanner.Found()
	}
	return nixhash.Finish(nixhash.SHA256, h.sha), h.total, refs
}
