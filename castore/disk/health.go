package disk

import (
	"sync"
)

// health remembers which blocks were seen good and which damaged since the
// store was opened. A put that finds its content present believes it only after
// the block was seen good; a damaged block counts as absent, so that the put
// heals it.
type health struct {
	mu      sync.Mutex
	good    map[uint64]uint64   // bits of 64 blocks each; guarded by mu
	damaged map[uint64]struct{} // guarded by mu
}

func (h *health) setGood(block uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.good == nil {
		h.good = make(map[uint64]uint64)
	}
	h.good[block>>6] |= 1 << (block & 63)
	delete(h.damaged, block)
}

// setDamaged tells whether the damage is news.
func (h *health) setDamaged(block uint64) (news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.damaged == nil {
		h.damaged = make(map[uint64]struct{})
	}
	_, known := h.damaged[block]
	h.damaged[block] = struct{}{}
	if h.good != nil {
		h.good[block>>6] &^= 1 << (block & 63)
	}
	return !known
}

func (h *health) get(block uint64) (good, damaged bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, damaged = h.damaged[block]
	return h.good[block>>6]&(1<<(block&63)) != 0, damaged
}
