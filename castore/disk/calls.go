package disk

import "sync/atomic"

// calls counts the calls that are running, so that Close can wait for them. It
// has no lock: every read passes here.
type calls struct {
	n       atomic.Int64 // running calls; callsClosed is added by close
	drained chan struct{}
}

const callsClosed = 1 << 62

func newCalls() *calls { return &calls{drained: make(chan struct{}, 1)} }

// enter registers a call, unless closed; leave must follow if it succeeds.
func (c *calls) enter() bool {
	if c.n.Add(1) < callsClosed {
		return true
	}
	c.leave()
	return false
}

func (c *calls) leave() {
	if c.n.Add(-1) == callsClosed {
		select {
		case c.drained <- struct{}{}:
		default: // close is not waiting, or was told already
		}
	}
}

func (c *calls) isClosed() bool { return c.n.Load() >= callsClosed }

// close refuses further calls and waits for those that run. It returns false if
// it was called before.
func (c *calls) close() bool {
	for {
		n := c.n.Load()
		if n >= callsClosed {
			return false
		}
		if c.n.CompareAndSwap(n, n+callsClosed) {
			break
		}
	}
	for c.n.Load() > callsClosed {
		<-c.drained
	}
	return true
}
