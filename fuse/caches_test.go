package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore"
)

// fakeCastore counts what is asked of it.
type fakeCastore struct {
	fetches, opened, closed atomic.Int64
	err                     error
	hold                    chan struct{} // if not nil, fetches wait for it
}

func (f *fakeCastore) GetDirectory(_ context.Context, d castore.Digest) (*castore.Directory, error) {
	f.fetches.Add(1)
	if f.hold != nil {
		<-f.hold
	}
	if d[0] == 0xff {
		panic("as ordered")
	}
	return &castore.Directory{Entries: make([]castore.Entry, int(d[0]))}, f.err
}

func (f *fakeCastore) Open(context.Context, castore.Digest) (castore.Blob, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.opened.Add(1)
	return &fakeBlob{store: f}, nil
}

type fakeBlob struct {
	store  *fakeCastore
	closed atomic.Bool
}

func (b *fakeBlob) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (b *fakeBlob) WriteTo(io.Writer) (int64, error)  { return 0, nil }
func (b *fakeBlob) Size() uint64                      { return 0 }
func (b *fakeBlob) Close() error {
	if !b.closed.CompareAndSwap(false, true) {
		return errors.New("closed twice")
	}
	b.store.closed.Add(1)
	return nil
}

func TestDirCacheBound(t *testing.T) {
	store := &fakeCastore{}
	c := newDirCache(store, 20_000)
	for i := range 100 {
		if _, err := c.get(t.Context(), castore.Digest{50, byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if c.bytes > 20_000 || len(c.entries) != c.recent.Len() || c.recent.Len() < 2 {
		t.Errorf("%d bytes in %d and %d entries", c.bytes, len(c.entries), c.recent.Len())
	}
	before := store.fetches.Load()
	for range 10 {
		_, _ = c.get(t.Context(), castore.Digest{50, 99})
	}
	if store.fetches.Load() != before {
		t.Error("a directory in the cache is fetched again")
	}
	// One that is larger than the cache is kept, alone, until the next one.
	c.limit = 10
	for range 3 {
		_, _ = c.get(t.Context(), castore.Digest{200})
	}
	if store.fetches.Load() != before+1 || c.recent.Len() != 1 {
		t.Errorf("%d fetches, %d entries", store.fetches.Load()-before, c.recent.Len())
	}
}

func TestDirCacheFetchesOnce(t *testing.T) {
	store := &fakeCastore{hold: make(chan struct{})}
	c := newDirCache(store, 1<<20)
	var readers sync.WaitGroup
	for range 10 {
		readers.Go(func() {
			if d, err := c.get(t.Context(), castore.Digest{3}); err != nil || len(d.Entries) != 3 {
				t.Errorf("%v, %v", d, err)
			}
		})
	}
	close(store.hold)
	readers.Wait()
	if n := store.fetches.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

func TestDirCacheKeepsNoErrors(t *testing.T) {
	store := &fakeCastore{err: castore.ErrNotFound}
	c := newDirCache(store, 1<<20)
	if _, err := c.get(t.Context(), castore.Digest{3}); !errors.Is(err, castore.ErrNotFound) {
		t.Error(err)
	}
	store.err = nil
	if _, err := c.get(t.Context(), castore.Digest{3}); err != nil {
		t.Errorf("an error is kept: %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = c.get(t.Context(), castore.Digest{0xff})
	}()
	if len(c.entries) != 1 {
		t.Error("a fetch that panicked is kept")
	}
}

func TestBlobCache(t *testing.T) {
	store := &fakeCastore{}
	c := newBlobCache(store, 3)
	use := func(i byte, failed bool) {
		b, err := c.acquire(t.Context(), castore.Digest{i})
		if err != nil {
			t.Fatal(err)
		}
		c.release(b, failed)
	}
	for i := range byte(10) {
		use(i, false)
	}
	if opened, closed := store.opened.Load(), store.closed.Load(); opened != 10 || closed != 7 {
		t.Errorf("%d opened, %d closed", opened, closed)
	}
	use(9, false)
	use(8, false)
	if store.opened.Load() != 10 {
		t.Error("an open blob is opened again")
	}
	use(8, true)
	if store.closed.Load() != 8 {
		t.Error("a blob that failed is kept")
	}
	held, err := c.acquire(t.Context(), castore.Digest{9})
	if err != nil {
		t.Fatal(err)
	}
	c.purge()
	if opened, closed := store.opened.Load(), store.closed.Load(); closed != opened-1 {
		t.Errorf("%d opened, %d closed: only the one in use may stay open", opened, closed)
	}
	use(9, false) // a new one: the other one goes when it is released
	c.release(held, false)
	c.purge()
	if opened, closed := store.opened.Load(), store.closed.Load(); closed != opened || len(c.blobs) != 0 || c.idle.Len() != 0 {
		t.Errorf("%d opened, %d closed, %d and %d in the cache", opened, closed, len(c.blobs), c.idle.Len())
	}
	store.err = castore.ErrNotFound
	if _, err := c.acquire(t.Context(), castore.Digest{1}); !errors.Is(err, castore.ErrNotFound) {
		t.Error(err)
	}
}

func TestBlobCacheConcurrently(t *testing.T) {
	store := &fakeCastore{}
	c := newBlobCache(store, 4)
	var readers sync.WaitGroup
	for r := range 8 {
		readers.Go(func() {
			for i := range 5000 {
				b, err := c.acquire(t.Context(), castore.Digest{byte(i * (r + 1) % 16)})
				if err != nil || b.Blob.(*fakeBlob).closed.Load() {
					t.Errorf("a closed blob, %v", err)
					return
				}
				c.release(b, i%100 == 0)
				if i%500 == 0 {
					c.purge()
				}
			}
		})
	}
	readers.Wait()
	c.purge()
	if opened, closed := store.opened.Load(), store.closed.Load(); opened != closed {
		t.Errorf("%d opened, %d closed", opened, closed)
	}
}

func TestThrottle(t *testing.T) {
	var th throttle
	now := time.Unix(1000, 0)
	admitted := 0
	for range 100 {
		if _, ok := th.admit(now); ok {
			admitted++
		}
	}
	suppressed, ok := th.admit(now.Add(time.Second))
	if admitted != complaintsPerSecond || !ok || suppressed != 100-complaintsPerSecond {
		t.Errorf("%d admitted, %d suppressed, %v", admitted, suppressed, ok)
	}
}

// TestListingPatches compares patched listings with new ones.
func TestListingPatches(t *testing.T) {
	roots := changingRoots{}
	r := newRootFolder(roots)
	for i := range 5000 {
		roots[fmt.Sprint(i)] = castore.Node{Kind: castore.KindFile, Size: uint64(i)}
	}
	check := func() {
		t.Helper()
		l, err := r.snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(l.entries) != len(roots) {
			t.Fatalf("%d entries, want %d", len(l.entries), len(roots))
		}
		for i, e := range l.entries {
			if e.Node != roots[e.Name] || i > 0 && l.entries[i-1].offset >= e.offset {
				t.Fatalf("entry %d, %s, is wrong", i, e.Name)
			}
		}
	}
	check()
	for i := range 40 {
		name, other := fmt.Sprint(i*3), fmt.Sprint("new", i)
		delete(roots, name)
		r.change([]string{name}, true)
		roots[other] = castore.Node{Kind: castore.KindSymlink, Target: other}
		r.change([]string{other}, false)
		if i%3 == 0 {
			check()
		}
	}
	for i := range 3000 {
		r.change([]string{fmt.Sprint("nothing", i)}, false)
	}
	if r.current != nil || r.pending != nil {
		t.Error("a listing that nobody reads keeps all changes")
	}
	check()
}

// changingRoots is used by one goroutine.
type changingRoots map[string]castore.Node

func (c changingRoots) Lookup(_ context.Context, name string) (castore.Node, error) {
	if n, ok := c[name]; ok {
		return n, nil
	}
	return castore.Node{}, castore.ErrNotFound
}

func (c changingRoots) List(context.Context) iter.Seq2[castore.Entry, error] {
	return func(yield func(castore.Entry, error) bool) {
		for name, n := range c {
			if !yield(castore.Entry{Name: name, Node: n}, nil) {
				return
			}
		}
	}
}

// TestEqualOffsetsGoTogether lists entries that share an offset into a reply that
// has room for one of them only.
func TestEqualOffsetsGoTogether(t *testing.T) {
	_, fs := silentDevice(t)
	entries := []rootEntry{
		{castore.Entry{Name: "one", Node: castore.Node{Kind: castore.KindFile}}, 9},
		{castore.Entry{Name: "two", Node: castore.Node{Kind: castore.KindFile}}, 9},
	}
	for _, plus := range []bool{true, false} {
		w := &dirWriter{f: fs, out: gofuse.NewDirEntryList(make([]byte, 700), 0), plus: plus}
		if !w.dots(0, 1, 1) {
			t.Fatal("no room for the first two")
		}
		size := len(w.out.Bytes())
		if w.addRoot(entries) || len(w.out.Bytes()) != size {
			t.Error("a part of the entries went out")
		}
		w = &dirWriter{f: fs, out: gofuse.NewDirEntryList(make([]byte, 700), 2), plus: plus}
		if !w.addRoot(entries) {
			t.Error("entries that fit do not go out")
		}
	}
}
