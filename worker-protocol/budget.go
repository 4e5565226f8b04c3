package workerprotocol

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// ErrBusy is what the error of a request is, in the sense of errors.Is, that would occupy more
// memory than all connections together may. Its connection stays usable.
var ErrBusy = errors.New("the memory for the requests of all clients is used up; try again later")

// Budget is the memory that the requests of many connections may occupy together. Nobody waits for
// it: who finds it spent gets ErrBusy. A nil Budget has no bound.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget makes a budget of that many bytes, beyond FreeBytes of each connection.
func NewBudget(bytes int64) *Budget { return &Budget{limit: bytes} }

// Used is how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// FreeBytes is what each connection may occupy without the budget being asked, so that ordinary
// requests are served however large those of others are.
const FreeBytes = 1 << 20

// Hold makes a holder that has taken nothing.
func (b *Budget) Hold() *Hold { return &Hold{budget: b} }

// Hold is what one connection, or one part of it, has taken of a budget. Its methods may be called
// concurrently.
type Hold struct {
	budget *Budget
	mu     sync.Mutex
	bytes  int64 // guarded by mu
	closed bool  // guarded by mu
}

// Take takes n bytes, or nothing and returns ErrBusy.
func (h *Hold) Take(n int64) error {
	if h.budget == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("take memory: %w", ErrUnusable)
	}
	more := beyondFree(h.bytes+n) - beyondFree(h.bytes)
	if more > 0 && h.budget.used.Add(more) > h.budget.limit {
		h.budget.used.Add(-more)
		return ErrBusy
	}
	h.bytes += n
	return nil
}

// Give gives n bytes of those that were taken back.
func (h *Hold) Give(n int64) {
	if h.budget == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.give(min(n, h.bytes))
}

func (h *Hold) give(n int64) {
	h.budget.used.Add(beyondFree(h.bytes-n) - beyondFree(h.bytes))
	h.bytes -= n
}

// Release gives everything back.
func (h *Hold) Release() { h.Give(1<<63 - 1) }

// Close gives everything back; nothing can be taken afterwards.
func (h *Hold) Close() {
	if h.budget == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.give(h.bytes)
	h.closed = true
}

func (h *Hold) taken() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes
}

func beyondFree(n int64) int64 { return max(0, n-FreeBytes) }
