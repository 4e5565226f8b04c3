package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A hangupWatch ends the operation of a client that has gone, although nobody reads from or
// writes to its connection at that moment. One goroutine waits for all connections.
//
// Connections are known by serial numbers: a descriptor may be closed and its number be given
// to the next client while the news about it is on its way.
type hangupWatch struct {
	epoll int

	mu   sync.Mutex
	next uint64
	gone map[uint64]context.CancelCauseFunc // guarded by mu

	wake [2]int // a pipe that ends the goroutine
	done chan struct{}
}

// errHungUp is the cause of a context that the watch cancelled.
var errHungUp = errors.New("the client has hung up")

func newHangupWatch() (*hangupWatch, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	w := &hangupWatch{epoll: epoll, gone: map[uint64]context.CancelCauseFunc{}, done: make(chan struct{})}
	if err := unix.Pipe2(w.wake[:], unix.O_CLOEXEC); err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, w.wake[0], &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		unix.Close(epoll)
		unix.Close(w.wake[0])
		unix.Close(w.wake[1])
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	go w.run()
	return w, nil
}

// watch calls cancel when the other side of conn is closed, not merely shut down for writing.
// It must be undone by calling forget before conn is closed. What cannot be watched, such as a
// plain file, never hangs up.
func (w *hangupWatch) watch(conn syscall.RawConn, cancel context.CancelCauseFunc) (forget func()) {
	w.mu.Lock()
	w.next++ // serial 0 is the pipe
	serial := w.next
	w.gone[serial] = cancel
	w.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLET, Fd: int32(uint32(serial)), Pad: int32(uint32(serial >> 32))}
	_ = conn.Control(func(fd uintptr) { _ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, int(fd), &event) })
	return func() {
		_ = conn.Control(func(fd uintptr) { _ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, int(fd), nil) })
		w.mu.Lock()
		delete(w.gone, serial)
		w.mu.Unlock()
	}
}

func (w *hangupWatch) run() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // the descriptor is ours and valid: nothing else is possible
		}
		for _, e := range events[:n] {
			serial := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			if serial == 0 {
				return
			}
			if e.Events&(unix.EPOLLHUP|unix.EPOLLERR) == 0 {
				continue
			}
			w.mu.Lock()
			cancel := w.gone[serial]
			w.mu.Unlock()
			if cancel != nil {
				cancel(errHungUp)
			}
		}
	}
}

func (w *hangupWatch) close() {
	unix.Close(w.wake[1])
	<-w.done
	unix.Close(w.wake[0])
	unix.Close(w.epoll)
}
