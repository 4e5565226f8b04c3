package workerprotocol

import (
	"net"
	"sync"
	"time"
)

// logClass tells what may happen to a message when the client does not read.
type logClass uint8

const (
	classLine     logClass = iota // may be lost, which is told
	classProgress                 // may be replaced by a newer one, or be lost
	classStart                    // may be lost with all that follows of the activity
	classMust                     // must arrive
)

// progressKey names what a newer message replaces.
type progressKey struct {
	activity ActivityID
	kind     ResultType
	of       uint64 // the activity type that ResSetExpected is about
}

type queued struct {
	data []byte
	key  progressKey // zero but for classProgress
}

// logQueue carries log messages from the goroutines of an operation to the connection. Producers
// put encoded messages in; a goroutine of the connection writes them while the queue is open, that
// is, while an operation runs. So a client that does not read stops the writer and not a build:
// a full queue makes producers wait only while the client still takes something now and then.
type logQueue struct {
	limit int           // bytes
	stall time.Duration // how long a client may take nothing before messages are lost
	write func(batch [][]byte) error
	lost  func(n uint64) []byte // makes the message that tells of lost ones

	mu       sync.Mutex
	open     bool // an operation runs: the writer may write
	until    int  // what end waits for: the index behind the last message to write, or noEnd
	writing  bool // the writer is at it
	closed   bool
	err      error // of the connection
	msgs     []queued
	first    int // index of msgs[0] since the beginning of time, for latest
	latest   map[progressKey]int
	bytes    int
	stalled  bool
	nLost    uint64
	muted    map[ActivityID]struct{} // activities whose start was lost
	progress chan struct{}           // closed and renewed whenever something was taken or written
	wake     chan struct{}           // tells the writer, holds one
	done     chan struct{}           // closed when the writer has ended
}

// noEnd is logQueue.until while an operation goes on.
const noEnd = int(^uint(0) >> 1)

// batchSize is how many bytes the writer takes at a time.
const batchSize = 32 << 10

func newLogQueue(limit int, stall time.Duration, write func([][]byte) error, lost func(uint64) []byte) *logQueue {
	return &logQueue{
		limit: limit, stall: stall, write: write, lost: lost, until: noEnd,
		latest: map[progressKey]int{}, muted: map[ActivityID]struct{}{},
		progress: make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// put adds a message. It returns at once unless the queue is full and the client is slow, but not
// stalled.
func (q *logQueue) put(class logClass, id ActivityID, key progressKey, data []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, muted := q.muted[id]; muted && id != 0 {
		return
	}
	if class == classProgress {
		if i, ok := q.latest[key]; ok {
			m := &q.msgs[i-q.first]
			q.bytes += len(data) - len(m.data)
			m.data = data
			return
		}
	}
	if class != classMust && !q.room(len(data)) {
		q.drop(class, id)
		return
	}
	if q.closed || q.err != nil {
		return
	}
	if class == classProgress {
		q.latest[key] = q.first + len(q.msgs)
	} else {
		key = progressKey{}
	}
	q.msgs = append(q.msgs, queued{data, key})
	q.bytes += len(data)
	q.rouse()
}

// room waits until n bytes fit, and reports whether they do. q.mu is held, but not while waiting.
func (q *logQueue) room(n int) bool {
	for q.bytes > 0 && q.bytes+n > q.limit && !q.closed && q.err == nil {
		// Between operations nobody writes, so waiting would be in vain.
		if q.stalled || q.stall <= 0 || !q.open {
			return false
		}
		progress := q.progress
		timer := time.NewTimer(q.stall)
		q.mu.Unlock()
		select {
		case <-progress:
		case <-timer.C:
		}
		timer.Stop()
		q.mu.Lock()
		if q.progress == progress {
			q.stalled = true
		}
	}
	return true
}

// drop counts a message that is lost. q.mu is held.
func (q *logQueue) drop(class logClass, id ActivityID) {
	switch class {
	case classLine:
		q.nLost++
	case classStart:
		q.muted[id] = struct{}{}
	}
}

// stop adds the end of an activity, or forgets the activity when its start was lost.
func (q *logQueue) stop(id ActivityID, data []byte) {
	q.mu.Lock()
	if _, muted := q.muted[id]; muted {
		delete(q.muted, id)
		q.mu.Unlock()
		return
	}
	q.mu.Unlock()
	q.put(classMust, 0, progressKey{}, data)
}

// rouse wakes the writer. q.mu is held.
func (q *logQueue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// tell wakes everyone who waits for a change. q.mu is held.
func (q *logQueue) tell() {
	close(q.progress)
	q.progress = make(chan struct{})
}

// begin lets the writer write.
func (q *logQueue) begin() {
	q.mu.Lock()
	q.open, q.until = true, noEnd
	q.rouse()
	q.mu.Unlock()
}

// end waits until everything that was put before is written and stops the writer, so that the
// caller can write to the connection. What others put meanwhile is kept for the next operation.
// The wait ends early when the connection fails or is closed.
func (q *logQueue) end() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.until = q.first + len(q.msgs)
	for q.err == nil && !q.closed && (q.writing || (q.open && q.first < q.until)) {
		progress := q.progress
		q.mu.Unlock()
		<-progress
		q.mu.Lock()
	}
	q.open = false
	if q.closed && q.err == nil {
		return net.ErrClosed // and the writer may still be at it
	}
	return q.err
}

// run is the writer.
func (q *logQueue) run() {
	defer close(q.done)
	for range q.wake {
		for {
			batch, ok := q.take()
			if !ok {
				return
			}
			if batch == nil {
				break
			}
			err := q.write(batch)
			q.mu.Lock()
			q.writing, q.stalled = false, false
			if err != nil && q.err == nil {
				q.err = err
				q.clear()
			}
			q.tell()
			q.mu.Unlock()
		}
	}
}

// take takes a batch out of the queue. It returns no batch when there is nothing to write, and
// false when the queue is closed.
func (q *logQueue) take() (batch [][]byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, false
	}
	if !q.open || q.err != nil {
		return nil, true
	}
	end := min(len(q.msgs), q.until-q.first)
	size, n := 0, 0
	for n < end && (n == 0 || size+len(q.msgs[n].data) <= batchSize) {
		m := &q.msgs[n]
		batch = append(batch, m.data)
		size += len(m.data)
		if m.key != (progressKey{}) {
			delete(q.latest, m.key)
		}
		*m = queued{}
		n++
	}
	q.msgs = q.msgs[n:]
	q.first += n
	q.bytes -= size
	if n > 0 && n == end && q.nLost > 0 {
		batch = append(batch, q.lost(q.nLost))
		q.nLost = 0
	}
	if len(q.msgs) == 0 {
		q.msgs = nil // give the memory back
	}
	q.writing = batch != nil
	return batch, true
}

// clear drops all messages. q.mu is held.
func (q *logQueue) clear() {
	q.first += len(q.msgs)
	q.msgs, q.bytes, q.nLost = nil, 0, 0
	clear(q.latest)
}

// close ends the writer; it does not wait for it. Writes under way must be ended by closing the
// connection.
func (q *logQueue) close() {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		q.clear()
		q.tell()
		q.rouse()
	}
	q.mu.Unlock()
}
