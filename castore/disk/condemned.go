package disk

import (
	"sync"

	"github.com/tvixd/tvixd/castore"
)

// condemned is what a sweep is about to drop: it counts as absent already, so
// that a put stores it anew. It changes only under the write side of Store.gate.
type condemned struct {
	objects map[castore.Digest]struct{}
	packs   map[uint32]struct{}

	// While a sweep runs, found collects the packs in which something was
	// found present: those must not be condemned.
	foundMu sync.Mutex
	found   map[uint32]struct{} // nil if no sweep runs; guarded by foundMu
}

// spares tells whether an object found at a location stays; if so, its pack
// stays as well. The caller holds the read side of the gate.
func (c *condemned) spares(d castore.Digest, loc *location) bool {
	if _, ok := c.objects[d]; ok {
		return false
	}
	if _, ok := c.packs[loc.at.pack]; ok {
		return false
	}
	c.foundMu.Lock()
	defer c.foundMu.Unlock()
	if c.found != nil {
		c.found[loc.at.pack] = struct{}{}
	}
	return true
}

// watch begins, or ends, the collection of found packs.
func (c *condemned) watch(on bool) {
	c.foundMu.Lock()
	defer c.foundMu.Unlock()
	if c.found = nil; on {
		c.found = make(map[uint32]struct{})
	}
}

// wasFound tells whether something was found in a pack since watch.
func (c *condemned) wasFound(pack uint32) bool {
	c.foundMu.Lock()
	defer c.foundMu.Unlock()
	_, ok := c.found[pack]
	return ok
}
