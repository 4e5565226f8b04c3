package fuse

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/fuse/fusetest"
)

func isMounted(t *testing.T, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+dir+" ")
}

func waitEnd(t *testing.T, s *Server) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(hangTime):
		t.Fatal("the server does not end")
	}
	s.Wait()
}

func TestMountOptionsInForce(t *testing.T) {
	m := mountTest(t, Options{AllowOther: true})
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, " "+m.dir+" ") {
			continue
		}
		for _, want := range []string{"ro", "nosuid", "nodev", "noatime", "fuse.tvixd tvixd ", "allow_other", "default_permissions", "max_read=1048576"} {
			// A max_read of the protocol's greatest is not shown.
			if !strings.Contains(line, want) && !strings.HasPrefix(want, "max_read") {
				t.Errorf("mount lacks %q: %s", want, line)
			}
		}
	}
	readahead, err := os.ReadFile("/sys/class/bdi/" + m.bdi + "/read_ahead_kb")
	if err == nil && strings.TrimSpace(string(readahead)) != "1024" {
		t.Errorf("readahead %s kB, want 1024", readahead)
	}
}

func TestUnmount(t *testing.T) {
	m := mountTest(t, Options{})
	if !isMounted(t, m.dir) {
		t.Fatal("not mounted")
	}
	for range 2 {
		if err := m.Unmount(); err != nil {
			t.Fatal(err)
		}
	}
	if isMounted(t, m.dir) {
		t.Error("still mounted")
	}
	waitEnd(t, m.Server)
	m.Added([]string{"late"})
	m.Removed([]string{"late"})
}

func TestUnmountBySomebodyElse(t *testing.T) {
	m := mountTest(t, Options{})
	if err := unix.Unmount(m.dir, 0); err != nil {
		t.Fatal(err)
	}
	waitEnd(t, m.Server)
	if err := m.Unmount(); err != nil {
		t.Error(err)
	}
}

func TestUnmountWhileBusy(t *testing.T) {
	m := mountTest(t, Options{})
	m.add("path", m.tree(t, "contents"))
	f, err := os.Open(filepath.Join(m.dir, "path/dir/file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	if isMounted(t, m.dir) {
		t.Error("still mounted")
	}
	b := make([]byte, 20)
	if n, err := f.Read(b); err != nil || string(b[:n]) != "contents" {
		t.Errorf("read from a file that was open: %q, %v", b[:n], err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	waitEnd(t, m.Server)
}

func TestCloseWhileBusy(t *testing.T) {
	m := mountTest(t, Options{})
	m.add("path", m.tree(t, "contents"))
	f, err := os.Open(filepath.Join(m.dir, "path/dir/file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	waitEnd(t, m.Server)
	if _, err := f.Read(make([]byte, 20)); !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("read after close: %v, want ENOTCONN", err)
	}
}

func TestContextUnmounts(t *testing.T) {
	m := mountTest(t, Options{}) // skips where it must
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Mount(ctx, Options{Mountpoint: m.dir, Castore: memory.New(), Roots: fusetest.NewRoots(nil)})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	waitEnd(t, s)
	if isMounted(t, m.dir) {
		t.Error("still mounted")
	}
}

func TestDeadMountIsReplaced(t *testing.T) {
	first := mountTest(t, Options{})
	if err := first.Abort(); err != nil {
		t.Fatal(err)
	}
	waitEnd(t, first.Server)
	if err := syscall.Statfs(first.dir, new(syscall.Statfs_t)); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("statfs of a dead mount: %v", err)
	}
	second := mountTest(t, Options{Mountpoint: first.dir})
	second.add("path", second.tree(t, "alive"))
	if b, err := os.ReadFile(filepath.Join(first.dir, "path/dir/file")); err != nil || string(b) != "alive" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestBadMountpoints(t *testing.T) {
	alive := mountTest(t, Options{})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		want       error
	}{
		{"alive", alive.dir, ErrBusy},
		{"a file", file, syscall.ENOTDIR},
		{"missing", filepath.Join(filepath.Dir(file), "missing"), syscall.ENOENT},
	} {
		s, err := Mount(context.Background(), Options{Mountpoint: c.path, Castore: memory.New(), Roots: fusetest.NewRoots(nil)})
		if err == nil {
			_ = s.Close()
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := Mount(context.Background(), Options{}); err == nil {
		t.Error("mount without options succeeds")
	}
}

// TestMountBelowAnother unmounts a store on which something else was mounted.
func TestMountBelowAnother(t *testing.T) {
	m := mountTest(t, Options{})
	if err := unix.Mount("none", m.dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(); err == nil {
		t.Error("unmount took away a foreign mount")
	}
	if err := unix.Unmount(m.dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(); err != nil {
		t.Error(err)
	}
}

func TestManyMounts(t *testing.T) {
	dir := t.TempDir()
	for range 25 {
		m := mountTest(t, Options{Mountpoint: dir})
		m.add("path", m.tree(t, "contents"))
		if _, err := os.ReadFile(filepath.Join(dir, "path/dir/file")); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "path")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
}
