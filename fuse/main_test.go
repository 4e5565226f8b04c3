package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/fuse/fusetest"
)

// The tests mount in a mount namespace of their own, which ends with them: even
// a test that is killed leaves no mount behind.

const namespaceMark = "TVIXD_FUSE_TEST_NAMESPACE"

var cannotMount error

func TestMain(m *testing.M) {
	if os.Getenv(namespaceMark) == "" {
		if cannotMount = enterNamespace(); cannotMount == nil {
			panic("exec returned")
		}
	}
	os.Exit(m.Run())
}

// enterNamespace runs the program anew in a private mount namespace. It returns
// only if that is not possible.
func enterNamespace() error {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mount namespace: %w", err)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), namespaceMark+"=1"))
}

// testMount is a mount whose end is certain.
type testMount struct {
	*Server
	dir   string
	store castore.Store
	roots *fusetest.Roots
}

// hangTime is how long a test may use a mount before it is taken for hanging.
const hangTime = 4 * time.Minute

func mountTest(tb testing.TB, o Options) *testMount {
	tb.Helper()
	if cannotMount != nil {
		tb.Skip("cannot mount here: ", cannotMount)
	}
	m := &testMount{dir: o.Mountpoint}
	if m.dir == "" {
		m.dir = tb.TempDir()
	}
	o.Mountpoint = m.dir
	if o.Castore == nil {
		m.store = memory.New()
		o.Castore = m.store
	}
	if o.Roots == nil {
		m.roots = fusetest.NewRoots(nil)
		o.Roots = m.roots
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := Mount(context.Background(), o)
	if errors.Is(err, unix.EPERM) {
		tb.Skip("cannot mount here: ", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	m.Server = s
	var hung atomic.Bool
	watchdog := time.AfterFunc(hangTime, func() {
		hung.Store(true)
		_ = s.Abort()
	})
	tb.Cleanup(func() {
		watchdog.Stop()
		if hung.Load() {
			tb.Error("the test hung; its mount was aborted")
		}
		if err := s.Close(); err != nil {
			tb.Error(err)
			_ = unix.Unmount(m.dir, unix.MNT_DETACH)
		}
	})
	return m
}

// mountFixture mounts the fixture of package fusetest.
func mountFixture(t *testing.T, o Options) *testMount {
	t.Helper()
	var store castore.Store = memory.New()
	if o.Castore != nil {
		store = o.Castore.(castore.Store)
	}
	nodes, err := fusetest.Fixture(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	roots := fusetest.NewRoots(nodes)
	o.Castore, o.Roots = store, roots
	m := mountTest(t, o)
	m.store, m.roots = store, roots
	return m
}
