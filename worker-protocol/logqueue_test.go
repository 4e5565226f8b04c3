package workerprotocol

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// testQueue is a queue whose writer waits for a token before each batch.
type testQueue struct {
	*logQueue
	tokens chan struct{}
	got    []string
}

func newTestQueue(t *testing.T, limit int, stall time.Duration) *testQueue {
	q := &testQueue{tokens: make(chan struct{})}
	q.logQueue = newLogQueue(limit, stall, func(batch [][]byte) error {
		if _, open := <-q.tokens; !open {
			return errors.New("closed")
		}
		for _, m := range batch {
			q.got = append(q.got, string(m))
		}
		return nil
	}, func(n uint64) []byte { return fmt.Appendf(nil, "lost %d", n) })
	go q.run()
	t.Cleanup(func() {
		q.close()
		close(q.tokens)
		<-q.done
	})
	return q
}

// finish lets the writer write until the queue is empty.
func (q *testQueue) finish(t *testing.T) {
	t.Helper()
	ended := make(chan error)
	go func() { ended <- q.end() }()
	for {
		select {
		case q.tokens <- struct{}{}:
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

func (q *testQueue) check(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(q.got, want) {
		t.Errorf("got %q, want %q", q.got, want)
	}
	q.got = nil
}

func TestQueueKeepsMessagesBetweenOperations(t *testing.T) {
	q := newTestQueue(t, 100, -1)
	q.put(classLine, 0, progressKey{}, []byte("a"))
	q.put(classMust, 0, progressKey{}, []byte("b"))
	q.begin()
	q.finish(t)
	q.check(t, "a", "b")
	q.put(classLine, 0, progressKey{}, []byte("c"))
	q.begin()
	q.finish(t)
	q.check(t, "c")
}

func TestQueueCoalescesProgress(t *testing.T) {
	q := newTestQueue(t, 1000, -1)
	done, builds := progressKey{1, ResProgress, 0}, progressKey{1, ResSetExpected, 104}
	for i := range 50 {
		q.put(classProgress, 1, done, fmt.Appendf(nil, "done %d", i))
		q.put(classProgress, 1, builds, fmt.Appendf(nil, "builds %d", i))
	}
	q.put(classLine, 0, progressKey{}, []byte("line"))
	q.put(classProgress, 1, done, []byte("done 50"))
	q.begin()
	q.finish(t)
	q.check(t, "done 50", "builds 49", "line")
	q.put(classProgress, 1, done, []byte("done 51"))
	q.begin()
	q.finish(t)
	q.check(t, "done 51")
}

func TestQueueDropsWhatDoesNotFit(t *testing.T) {
	q := newTestQueue(t, 10, -1)
	q.put(classLine, 0, progressKey{}, []byte("12345678"))
	q.put(classLine, 0, progressKey{}, []byte("too much"))
	q.put(classStart, 7, progressKey{}, []byte("start 7"))
	q.put(classLine, 7, progressKey{}, []byte("7")) // would fit, but its activity is lost
	q.put(classLine, 8, progressKey{}, []byte("8"))
	q.put(classMust, 0, progressKey{}, []byte("must"))
	q.stop(7, []byte("stop 7"))
	q.stop(8, []byte("stop 8"))
	q.begin()
	q.finish(t)
	q.check(t, "12345678", "8", "must", "stop 8", "lost 1")
	q.put(classStart, 7, progressKey{}, []byte("start 7"))
	q.begin()
	q.finish(t)
	q.check(t, "start 7")
}

func TestQueueTakesALargeMessageAlone(t *testing.T) {
	q := newTestQueue(t, 10, -1)
	large := strings.Repeat("x", 1000)
	q.put(classLine, 0, progressKey{}, []byte(large))
	q.begin()
	q.finish(t)
	q.check(t, large)
}

// TestQueueWaitsForASlowClient has a client that takes little at a time, and loses nothing.
func TestQueueWaitsForASlowClient(t *testing.T) {
	q := newTestQueue(t, 10, time.Hour)
	q.begin()
	var want []string
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		for i := range 100 {
			q.put(classLine, 0, progressKey{}, fmt.Appendf(nil, "line %d", i))
		}
	}()
	for i := range 100 {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	for waiting := true; waiting; {
		select {
		case q.tokens <- struct{}{}:
		case <-produced:
			waiting = false
		}
	}
	q.finish(t)
	q.check(t, want...)
}

// TestQueueGivesUpOnAStalledClient waits once, and then no more until the client reads again.
func TestQueueGivesUpOnAStalledClient(t *testing.T) {
	q := newTestQueue(t, 10, time.Millisecond)
	q.begin()
	for i := range 1000 {
		q.put(classLine, 0, progressKey{}, fmt.Appendf(nil, "line %03d", i))
	}
	q.mu.Lock()
	if !q.stalled || q.nLost < 990 {
		t.Errorf("stalled is %v, %d are lost", q.stalled, q.nLost)
	}
	lost := q.nLost
	q.mu.Unlock()
	q.finish(t)
	if last := q.got[len(q.got)-1]; last != fmt.Sprintf("lost %d", lost) {
		t.Errorf("got %q", q.got)
	}
	if int(lost)+len(q.got)-1 != 1000 {
		t.Errorf("%d are lost and %d arrived", lost, len(q.got)-1)
	}
	q.got = nil
	q.begin()
	q.put(classLine, 0, progressKey{}, []byte("again"))
	q.finish(t)
	q.check(t, "again")
}

func TestQueueAfterAFailure(t *testing.T) {
	broken := errors.New("broken")
	q := newLogQueue(10, time.Hour, func([][]byte) error { return broken }, nil)
	go q.run()
	q.begin()
	for range 100 {
		q.put(classLine, 0, progressKey{}, bytes.Repeat([]byte("x"), 9)) // must not wait
	}
	if err := q.end(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	q.close()
	q.close()
	<-q.done
}
