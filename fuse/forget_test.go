package fuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tvixd/tvixd/castore"
)

// eventually waits for what the kernel does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hangTime); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// TestForgetGivesEverythingBack walks a tree and lets the kernel forget it.
func TestForgetGivesEverythingBack(t *testing.T) {
	m := mountFixture(t, Options{ListRoot: true})
	for range 3 {
		if _, err := os.ReadDir(filepath.Join(m.dir, "88888888888888888888888888888888-wide")); err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			name := fmt.Sprintf("88888888888888888888888888888888-wide/entry-%05d", i)
			if _, err := os.ReadFile(filepath.Join(m.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if n := m.fs.nodes.len(); n < 1000 {
			t.Errorf("%d nodes are known, want a thousand and more", n)
		}
		forgetAll(t, m.dir)
		eventually(t, "the table does not become empty", func() bool { return m.fs.nodes.len() == 0 })
	}
}

// TestForgetStorm forgets while others look up, list and read.
func TestForgetStorm(t *testing.T) {
	m := mountTest(t, Options{ListRoot: true})
	const paths = 50
	for i := range paths {
		m.add(fmt.Sprint("path-", i), m.tree(t, fmt.Sprint(i)))
	}
	held, err := os.Open(filepath.Join(m.dir, "path-7/dir"))
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 6 {
		readers.Go(func() {
			for i := 0; !stop.Load(); i = (i + 1) % paths {
				got, err := os.ReadFile(filepath.Join(m.dir, fmt.Sprint("path-", i), "dir/file"))
				if err != nil || string(got) != fmt.Sprint(i) {
					t.Errorf("path %d: %q, %v", i, got, err)
				}
				if i == 0 && len(listNames(t, m.dir)) != paths {
					t.Error("the listing is short")
				}
			}
		})
	}
	for range 200 {
		forgetAll(t, m.dir)
	}
	stop.Store(true)
	readers.Wait()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(held.Fd()), &st); err != nil {
		t.Error(err)
	}
	if err := fstatat(held, "file"); err != nil {
		t.Errorf("lookup in a directory held open: %v", err)
	}
	_ = held.Close()
	forgetAll(t, m.dir)
	eventually(t, "the table does not become empty", func() bool { return m.fs.nodes.len() == 0 })
}

func TestHugeDirectory(t *testing.T) {
	m := mountTest(t, Options{DirectoryCacheBytes: 1 << 20})
	const n = 100_000
	entries := make([]castore.Entry, n)
	file := m.file(t, "the only contents")
	for i := range entries {
		entries[i] = castore.Entry{Name: fmt.Sprintf("%06d", i), Node: file}
	}
	m.add("huge", m.directory(t, entries...))
	for range 2 {
		names := listNames(t, filepath.Join(m.dir, "huge"))
		if len(names) != n || names[0] != "000000" || names[n-1] != "099999" {
			t.Fatalf("%d entries, want %d", len(names), n)
		}
	}
	if _, err := os.ReadFile(filepath.Join(m.dir, "huge/077777")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(m.dir, "huge/100000")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	// All of its files are one node.
	if known := m.fs.nodes.len(); known > 3 {
		t.Errorf("%d nodes are known, want 2", known)
	}
}

// TestManyRoots lists a root of many paths.
func TestManyRoots(t *testing.T) {
	m := mountTest(t, Options{ListRoot: true})
	const n = 20_000
	file := m.file(t, "")
	for i := range n {
		m.roots.Set(fmt.Sprintf("path-%05d", i), file)
	}
	for range 2 {
		if got := len(listNames(t, m.dir)); got != n {
			t.Fatalf("%d entries, want %d", got, n)
		}
	}
	m.fs.root.mu.Lock()
	defer m.fs.root.mu.Unlock()
	if m.fs.root.current != nil {
		t.Error("the listing is kept after it was read to its end")
	}
}
