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
	much  atomic.Bool // an eighth was taken, and not all given back since
	idle  func()
}

// NewBudget makes a budget of that many bytes, beyond FreeBytes of each connection.
func NewBudget(bytes int64) *Budget { return &Budget{limit: bytes} }

// OnIdle has f called whenever all is given back after an eighth of the budget or more was taken:
// the time to look after the garbage. It must be set before the budget is used, and f must not
// block.
func (b *Budget) OnIdle(f func()) { b.idle = f }

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
	if more > 0 && !h.budget.take(more) {
		return ErrBusy
	}
	h.bytes += n
	return nil
}

func (b *Budget) take(n int64) bool {
	used := b.used.Add(n)
	if used > b.limit {
		b.give(n)
		return false
	}
	if used > b.limit/8 {
		b.much.Store(true)
	}
	return true
}

func (b *Budget) give(n int64) {
	if b.used.Add(-n) == 0 && b.idle != nil && b.much.Swap(false) {
		b.idle()
	}
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
	if less := beyondFree(h.bytes) - beyondFree(h.bytes-n); less > 0 {
		h.budget.give(less)
	}
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
