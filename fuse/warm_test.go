package fuse

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

// requestCounts returns how often each opcode was asked.
func (d *device) requestCounts() (counts [opCount]uint64) {
	for i := range d.requests {
		if i != opForget && i != opBatchForget {
			counts[i] = d.requests[i].Load()
		}
	}
	return counts
}

// TestWarmTreeAsksNothing walks, stats and reads a tree twice; the second time
// the kernel answers all of it.
func TestWarmTreeAsksNothing(t *testing.T) {
	m := mountFixture(t, Options{ListRoot: true, DistinctDirectories: true})
	for name, n := range allRoots(m) {
		// What fails is asked again each time.
		if _, err := m.store.GetDirectory(t.Context(), n.Digest); n.Kind == castore.KindDirectory && err != nil {
			m.remove(name)
		}
	}
	walkAll(t, m.dir)
	// On a machine short of memory the kernel may drop some of it, so there are
	// several tries.
	const tries = 20
	for try := 1; ; try++ {
		before := m.dev.requestCounts()
		walkAll(t, m.dir)
		after := m.dev.requestCounts()
		if after == before {
			return
		}
		for op := range after {
			if asked := after[op] - before[op]; try == tries && asked != 0 {
				t.Errorf("%d requests with opcode %d for a warm tree, want none", asked, op)
			}
		}
		if try == tries {
			return
		}
	}
}

func walkAll(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if _, err := os.Lstat(path); err != nil {
			return err
		}
		if filepath.Dir(path) != dir && len(d.Name()) < 200 {
			_, _ = os.Lstat(path + "-not-there")
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			_, err = os.Readlink(path)
		case d.Type().IsRegular() && filepath.Dir(path) != dir:
			_, err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func allRoots(m *testMount) map[string]castore.Node {
	all := map[string]castore.Node{}
	for e := range m.roots.List(context.Background()) {
		all[e.Name] = e.Node
	}
	return all
}
