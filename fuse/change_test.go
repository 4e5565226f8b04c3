package fuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

func (m *testMount) file(tb testing.TB, contents string) castore.Node {
	tb.Helper()
	d, err := m.store.PutBlob(context.Background(), []byte(contents))
	if err != nil {
		tb.Fatal(err)
	}
	return castore.Node{Kind: castore.KindFile, Digest: d, Size: uint64(len(contents))}
}

func (m *testMount) directory(tb testing.TB, entries ...castore.Entry) castore.Node {
	tb.Helper()
	dir := &castore.Directory{Entries: entries}
	d, err := m.store.PutDirectory(context.Background(), dir)
	if err != nil {
		tb.Fatal(err)
	}
	return castore.Node{Kind: castore.KindDirectory, Digest: d, Size: dir.Size()}
}

// tree makes a directory dir/file whose contents are its own.
func (m *testMount) tree(tb testing.TB, contents string) castore.Node {
	tb.Helper()
	inner := m.directory(tb, castore.Entry{Name: "file", Node: m.file(tb, contents)})
	return m.directory(tb, castore.Entry{Name: "dir", Node: inner})
}

func (m *testMount) add(name string, n castore.Node) {
	m.roots.Set(name, n)
	m.Added([]string{name})
}

func (m *testMount) remove(name string) {
	m.roots.Delete(name)
	m.Removed([]string{name})
}

// sweep drops from the castore what no root refers to.
func (m *testMount) sweep(tb testing.TB) {
	tb.Helper()
	var live castore.LiveNodes
	for e := range m.roots.List(context.Background()) {
		live = append(live, e.Node)
	}
	if _, err := m.store.Sweep(context.Background(), live, castore.SweepOptions{}); err != nil {
		tb.Fatal(err)
	}
}

func listNames(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Error(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestListingFollowsChanges(t *testing.T) {
	m := mountTest(t, Options{ListRoot: true})
	var want []string
	for i := range 60 {
		name := fmt.Sprintf("path-%02d", i)
		if _, err := os.Lstat(filepath.Join(m.dir, name)); !errors.Is(err, syscall.ENOENT) {
			t.Fatalf("lstat before it is added: %v", err)
		}
		m.add(name, m.tree(t, name))
		want = append(want, name)
		for range 3 {
			if got := listNames(t, m.dir); !slices.Equal(got, want) {
				t.Fatalf("after adding %s: %q", name, got)
			}
		}
		if _, err := os.ReadFile(filepath.Join(m.dir, name, "dir/file")); err != nil {
			t.Fatal(err)
		}
		if i%3 != 2 {
			continue
		}
		gone := want[len(want)/2]
		m.remove(gone)
		want = slices.Delete(want, len(want)/2, len(want)/2+1)
		for range 2 {
			if got := listNames(t, m.dir); !slices.Equal(got, want) {
				t.Fatalf("after removing %s: %q", gone, got)
			}
		}
		for _, path := range []string{gone, gone + "/dir", gone + "/dir/file"} {
			if _, err := os.Lstat(filepath.Join(m.dir, path)); !errors.Is(err, syscall.ENOENT) {
				t.Fatalf("lstat %s after it was removed: %v", path, err)
			}
		}
	}
}

// TestListingOnTheWay changes the root between two pieces of one listing.
func TestListingOnTheWay(t *testing.T) {
	m := mountTest(t, Options{ListRoot: true})
	stay := map[string]bool{}
	for i := range 2000 {
		name := fmt.Sprintf("stay-%04d", i)
		m.roots.Set(name, m.file(t, name))
		m.roots.Set(fmt.Sprintf("go-%04d", i), m.file(t, name))
		stay[name] = false
	}
	m.Added([]string{"all"})
	f, err := os.Open(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for i := 0; ; i++ {
		names, err := f.Readdirnames(50)
		for _, name := range names {
			seen, ok := stay[name]
			if seen {
				t.Fatalf("%s is listed twice", name)
			}
			if ok {
				stay[name] = true
			}
		}
		if err != nil {
			break
		}
		m.remove(fmt.Sprintf("go-%04d", i))
		m.add(fmt.Sprintf("new-%04d", i), m.file(t, "new"))
	}
	for name, seen := range stay {
		if !seen {
			t.Fatalf("%s is not listed", name)
		}
	}
}

func TestReplacedPathShowsNewContents(t *testing.T) {
	m := mountTest(t, Options{})
	for i := range 20 {
		contents := fmt.Sprint(i)
		m.add("path", m.tree(t, contents))
		got, err := os.ReadFile(filepath.Join(m.dir, "path/dir/file"))
		if err != nil || string(got) != contents {
			t.Fatalf("round %d: %q, %v", i, got, err)
		}
		m.remove("path")
	}
}

// TestSamePathComesBack has an open directory of a path while it goes and comes.
func TestSamePathComesBack(t *testing.T) {
	m := mountTest(t, Options{})
	n := m.tree(t, "same")
	m.add("path", n)
	held, err := os.Open(filepath.Join(m.dir, "path/dir"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	for range 3 {
		m.remove("path")
		m.add("path", n)
		if got, err := os.ReadFile(filepath.Join(m.dir, "path/dir/file")); err != nil || string(got) != "same" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if names, err := held.Readdirnames(-1); err != nil || !slices.Equal(names, []string{"file"}) {
		t.Fatalf("directory held open: %q, %v", names, err)
	}
}

// TestCollectedUnderAReader sweeps the data of a path in which somebody is.
func TestCollectedUnderAReader(t *testing.T) {
	m := mountTest(t, Options{})
	m.add("path", m.tree(t, "some contents"))
	m.add("lonely-file", m.file(t, "other contents"))
	dir, err := os.Open(filepath.Join(m.dir, "path/dir"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	var files []*os.File
	for _, name := range []string{"path/dir/file", "lonely-file"} {
		f, err := os.Open(filepath.Join(m.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		files = append(files, f)
	}
	m.remove("path")
	m.remove("lonely-file")
	m.sweep(t)
	for _, f := range files {
		if _, err := f.Read(make([]byte, 10)); !errors.Is(err, syscall.ESTALE) {
			t.Errorf("read %s: %v, want ESTALE", f.Name(), err)
		}
	}
	if _, err := dir.Readdirnames(-1); err != nil && !errors.Is(err, syscall.ESTALE) {
		t.Errorf("list: %v, want nothing or ESTALE", err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(dir.Fd()), &st); err != nil {
		t.Errorf("fstat of the directory held open: %v", err)
	}
	if err := fstatat(dir, "other"); !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ESTALE) {
		t.Errorf("lookup: %v, want ENOENT or ESTALE", err)
	}
	if _, err := os.ReadFile(filepath.Join(m.dir, "path/dir/file")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("read by path: %v, want ENOENT", err)
	}
}

func fstatat(dir *os.File, name string) error {
	fd, err := syscall.Openat(int(dir.Fd()), name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		_ = syscall.Close(fd)
	}
	return err
}

// TestLostDataIsNotTakenForCollected: a blob that is missing under a valid path
// is an error of the store, also after other paths were collected.
func TestLostDataIsNotTakenForCollected(t *testing.T) {
	m := mountTest(t, Options{})
	m.add("old", m.tree(t, "old"))
	m.remove("old")
	lost := castore.Node{Kind: castore.KindFile, Digest: castore.Sum([]byte("lost")), Size: 4}
	m.add("path", m.directory(t, castore.Entry{Name: "lost", Node: lost}))
	for _, path := range []string{"path/lost"} {
		if _, err := os.ReadFile(filepath.Join(m.dir, path)); !errors.Is(err, syscall.EIO) {
			t.Errorf("read %s: %v, want EIO", path, err)
		}
	}
}

// TestReadersBesideChanges lets readers check everything while paths come and go.
func TestReadersBesideChanges(t *testing.T) {
	m := mountTest(t, Options{ListRoot: true, DirectoryCacheBytes: 4096, OpenBlobs: 2})
	const steady, passing = 40, 400
	for i := range steady {
		m.add(fmt.Sprintf("steady-%d", i), m.tree(t, fmt.Sprintf("steady contents %d", i)))
	}
	var stop atomic.Bool
	var readers sync.WaitGroup
	for r := range 8 {
		readers.Go(func() {
			for round := 0; !stop.Load() && !t.Failed(); round++ {
				i := (r*7 + round) % steady
				path := filepath.Join(m.dir, fmt.Sprintf("steady-%d/dir/file", i))
				if got, err := os.ReadFile(path); err != nil || string(got) != fmt.Sprintf("steady contents %d", i) {
					t.Errorf("%s: %q, %v", path, got, err)
				}
				if err := checkPassing(m.dir, round%passing); err != nil {
					t.Error(err)
				}
				if round%16 == r {
					checkListing(t, m.dir, steady)
				}
			}
		})
	}
	for i := range passing {
		name := fmt.Sprintf("passing-%d", i)
		m.add(name, m.tree(t, name))
		if _, err := os.ReadFile(filepath.Join(m.dir, name, "dir/file")); err != nil {
			t.Errorf("read what was added: %v", err)
		}
		if i < 5 {
			continue
		}
		name = fmt.Sprintf("passing-%d", i-5)
		m.remove(name)
		if _, err := os.Lstat(filepath.Join(m.dir, name)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("lstat of what was removed: %v", err)
		}
		if i%20 == 0 {
			m.sweep(t)
			forgetAll(t, m.dir)
		}
	}
	stop.Store(true)
	readers.Wait()
}

func checkPassing(dir string, i int) error {
	name := fmt.Sprintf("passing-%d", i)
	got, err := os.ReadFile(filepath.Join(dir, name, "dir/file"))
	switch {
	case err == nil && string(got) == name:
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE):
	default:
		return fmt.Errorf("%s: %q, %w", name, got, err)
	}
	return nil
}

func checkListing(t *testing.T, dir string, steady int) {
	names := listNames(t, dir)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Error("the root lists a name twice")
	}
	n := 0
	for _, name := range names {
		if len(name) > 7 && name[:7] == "steady-" {
			n++
		}
	}
	if n != steady {
		t.Errorf("the root lists %d of %d steady paths", n, steady)
	}
}

// TestListingIsNewWhileOthersList adds paths while the kernel is busy filling
// its cache of the listing for others.
func TestListingIsNewWhileOthersList(t *testing.T) {
	m := mountTest(t, Options{ListRoot: true})
	for i := range 200 {
		m.roots.Set(fmt.Sprintf("old-%03d", i), m.file(t, "old"))
	}
	var stop atomic.Bool
	var listers sync.WaitGroup
	for range 4 {
		listers.Go(func() {
			for !stop.Load() {
				listNames(t, m.dir)
			}
		})
	}
	for i := range 120 {
		name := fmt.Sprintf("new-%03d", i)
		m.add(name, m.file(t, name))
		if !slices.Contains(listNames(t, m.dir), name) {
			t.Errorf("%s is not listed after it was added", name)
		}
		m.remove(name)
		if slices.Contains(listNames(t, m.dir), name) {
			t.Errorf("%s is listed after it was removed", name)
		}
	}
	stop.Store(true)
	listers.Wait()
}
