package fuse

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// device moves requests and replies between /dev/fuse and a ProtocolServer.
//
// Each reader is a goroutine that reads a request and answers it before it reads
// the next one, so that a request costs no switch of goroutines. A reader that
// takes a request while no other one waits starts another one first; so there is
// always one that waits, and slow requests hold nobody up.
type device struct {
	protocol *gofuse.ProtocolServer
	logger   *slog.Logger
	ended    func()       // called when the connection has ended, once a reader
	idle     atomic.Int32 // readers that wait for a request
	maxIdle  int32
	starting atomic.Bool // until the kernel knows that there is no POLL
	readers  sync.WaitGroup
	replies  bufferPools
	requests [opCount]atomic.Uint64 // requests so far, by opcode

	fdMu sync.RWMutex
	fd   int // -1 after close; guarded by fdMu for all but the readers
}

const (
	maxRead = 1 << 20 // the most that the kernel can ask for
	// maxWrite is told to the kernel for the only purpose that the buffers for
	// requests need not have room for writes, which never come.
	maxWrite = 4096
	// requestSize is what a request may take; more only means more numbers in
	// one FORGET.
	requestSize = 32 << 10
)

func openDevice(logger *slog.Logger) (*device, error) {
	// Close-on-exec matters: a child that inherits the descriptor could answer
	// for the store, and would keep the mount hanging after our death.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	d := &device{fd: fd, logger: logger, maxIdle: int32(max(2, runtime.GOMAXPROCS(0)))}
	d.starting.Store(true)
	return d, nil
}

// handshake answers INIT, the first request.
func (d *device) handshake() error {
	buf := make([]byte, requestSize)
	n, err := d.read(buf)
	if err != nil {
		return fmt.Errorf("read first request: %w", err)
	}
	r, err := parseRequest(buf[:n])
	if err != nil || r.opcode != opInit {
		return fmt.Errorf("first request is not INIT: opcode %d", r.opcode)
	}
	reply := make([]byte, smallReply)
	size, status := d.protocol.HandleRequest([][]byte{buf[:n]}, [][]byte{reply})
	if status != gofuse.OK || size < initMaxWrite+4 {
		return fmt.Errorf("answer INIT: status %v, %d bytes", status, size)
	}
	if code := int32(binary.NativeEndian.Uint32(reply[4:])); code != 0 {
		return fmt.Errorf("kernel speaks another FUSE protocol: %w", syscall.Errno(-code))
	}
	binary.NativeEndian.PutUint32(reply[initMaxWrite:], maxWrite)
	if _, err := unix.Write(d.fd, reply[:size]); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	return nil
}

func (d *device) start() {
	d.readers.Go(d.serve)
}

func (d *device) serve() {
	buf := make([]byte, requestSize)
	for {
		d.idle.Add(1)
		n, err := d.read(buf)
		waiting := d.idle.Add(-1)
		if err != nil {
			if !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ECONNABORTED) {
				d.logger.Error("read from /dev/fuse failed", slog.Any("error", err))
			}
			d.ended()
			return
		}
		r, err := parseRequest(buf[:n])
		if err != nil {
			d.logger.Error("request from the kernel is malformed", slog.Any("error", err))
			continue
		}
		// Nobody waits for a FORGET: they are handled before more is read.
		if waiting == 0 && r.opcode != opForget && r.opcode != opBatchForget {
			d.start()
		}
		d.handle(r)
		if d.idle.Load() >= d.maxIdle {
			return
		}
	}
}

// read waits for a request. ENODEV means that the file system was unmounted or
// the connection aborted.
func (d *device) read(buf []byte) (int, error) {
	for {
		n, err := syscall.Read(d.fd, buf)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR, syscall.EAGAIN, syscall.ENOENT:
			// ENOENT: the request was taken back while it was being read.
		default:
			return 0, err
		}
	}
}

func (d *device) handle(r request) {
	d.requests[min(r.opcode, opCount-1)].Add(1)
	if status, ok := d.shortcut(r); ok {
		d.answerError(r, status)
		return
	}
	need := r.replySize()
	if need > maxRead+smallReply {
		d.answerError(r, gofuse.EINVAL)
		return
	}
	reply := d.replies.get(need)
	defer d.replies.put(reply)
	n, status := d.protocol.HandleRequest([][]byte{r.bytes}, [][]byte{*reply})
	switch {
	case status != gofuse.OK:
		d.answerError(r, status)
	case n > 0:
		d.answer((*reply)[:n])
	}
}

// shortcut answers some requests without the file system.
func (d *device) shortcut(r request) (gofuse.Status, bool) {
	switch r.opcode {
	case opInterrupt, opPoll, opBmap:
		// ENOSYS also means: do not ask again.
		return gofuse.ENOSYS, true
	case opIoctl:
		return gofuse.Status(syscall.ENOTTY), true
	case opLookup:
		// go-fuse shows a file of its own in the root, which served at the
		// start (stopPolling) and must not be seen later.
		if r.node == rootID && !d.starting.Load() && r.name() == pollName {
			return gofuse.ENOENT, true
		}
	}
	return 0, false
}

func (d *device) answerError(r request, status gofuse.Status) {
	if r.opcode == opForget || r.opcode == opBatchForget {
		return
	}
	d.answer(errorReply(r.unique, status))
}

func (d *device) answer(reply []byte) {
	_, err := unix.Write(d.fd, reply)
	switch err {
	case nil, unix.ENOENT, unix.ENODEV, unix.ENOTCONN:
		// ENOENT: nobody waits for the answer any more.
	default:
		d.logger.Error("write to /dev/fuse failed", slog.Any("error", err))
		if len(reply) > replyHeader {
			// Somebody still waits for an answer.
			_, _ = unix.Write(d.fd, errorReply(binary.NativeEndian.Uint64(reply[8:]), gofuse.EIO))
		}
	}
}

// notify sends a message that answers no request. It may wait for locks of the
// kernel that are held during requests.
func (d *device) notify(message []byte) error {
	d.fdMu.RLock()
	defer d.fdMu.RUnlock()
	if d.fd < 0 {
		return unix.ENODEV
	}
	_, err := unix.Write(d.fd, message)
	return err
}

// close ends the connection. All readers must have returned.
func (d *device) close() {
	d.fdMu.Lock()
	defer d.fdMu.Unlock()
	if d.fd >= 0 {
		_ = unix.Close(d.fd)
		d.fd = -1
	}
}

// logWriter passes the messages of go-fuse on.
type logWriter struct{ logger *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.logger.Log(context.Background(), slog.LevelDebug, string(b))
	return len(b), nil
}
