package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/memory"
)

// slowCastore lets every opening of a blob wait, except of those named quick.
type slowCastore struct {
	castore.Store
	wait    func(context.Context) error
	quick   castore.Digest
	waiting atomic.Int64
}

func (s *slowCastore) Open(ctx context.Context, d castore.Digest) (castore.Blob, error) {
	if d != s.quick {
		s.waiting.Add(1)
		defer s.waiting.Add(-1)
		if err := s.wait(ctx); err != nil {
			return nil, err
		}
	}
	return s.Store.Open(ctx, d)
}

func mountSlow(t *testing.T, files int, wait func(context.Context) error) (*testMount, *slowCastore) {
	t.Helper()
	slow := &slowCastore{Store: memory.New(), wait: wait}
	m := mountTest(t, Options{Castore: slow})
	m.store = slow
	quick := m.file(t, "quick")
	slow.quick = quick.Digest
	m.add("quick", quick)
	for i := range files {
		m.add(fmt.Sprint("slow-", i), m.file(t, fmt.Sprint("slow contents ", i)))
	}
	return m, slow
}

// readAll opens all slow files and starts a reader for each.
func readAll(t *testing.T, m *testMount, files int, check func(i int, got []byte, err error)) *sync.WaitGroup {
	t.Helper()
	var readers sync.WaitGroup
	for i := range files {
		f, err := os.Open(filepath.Join(m.dir, fmt.Sprint("slow-", i)))
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			defer func() { _ = f.Close() }()
			got, err := io.ReadAll(f)
			check(i, got, err)
		})
	}
	return &readers
}

func TestSlowReadsHoldNobodyUp(t *testing.T) {
	const files = 50
	release := make(chan struct{})
	m, slow := mountSlow(t, files, func(context.Context) error { <-release; return nil })
	readers := readAll(t, m, files, func(i int, got []byte, err error) {
		if err != nil || string(got) != fmt.Sprint("slow contents ", i) {
			t.Errorf("slow file %d: %q, %v", i, got, err)
		}
	})
	// Readahead is limited to some requests at a time.
	eventually(t, "the readers do not come to wait", func() bool { return slow.waiting.Load() >= 10 })
	for i := range 50 {
		m.add(fmt.Sprint("more-", i), m.file(t, "more"))
		if _, err := os.Lstat(filepath.Join(m.dir, fmt.Sprint("more-", i))); err != nil {
			t.Error(err)
		}
	}
	close(release)
	readers.Wait()
}

// TestCloseBesideWaitingReaders ends a mount whose readers wait for data that
// never comes.
func TestCloseBesideWaitingReaders(t *testing.T) {
	const files = 20
	m, slow := mountSlow(t, files, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	readers := readAll(t, m, files, func(i int, _ []byte, err error) {
		if !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.EIO) {
			t.Errorf("slow file %d: %v, want ENOTCONN", i, err)
		}
	})
	eventually(t, "the readers do not come to wait", func() bool { return slow.waiting.Load() >= 10 })
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	readers.Wait()
	if n := slow.waiting.Load(); n != 0 {
		t.Errorf("%d requests are still being answered after Close", n)
	}
}

// TestSignalsInterruptNothing sends signals to a thread that waits for data, as
// Go's scheduler does.
func TestSignalsInterruptNothing(t *testing.T) {
	const files = 20
	m, _ := mountSlow(t, files, func(context.Context) error { time.Sleep(20 * time.Millisecond); return nil })
	thread := make(chan int)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		for i := range files {
			if err := readRaw(filepath.Join(m.dir, fmt.Sprint("slow-", i))); err != nil {
				t.Errorf("slow file %d: %v", i, err)
			}
		}
	}()
	tid := <-thread
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		}
	}
}

// readRaw reads without the retries of package os.
func readRaw(path string) error {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	n, err := syscall.Read(fd, make([]byte, 100))
	if err == nil && n == 0 {
		err = errors.New("nothing read")
	}
	return err
}
