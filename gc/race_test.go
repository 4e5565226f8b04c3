package gc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// during runs do between the mark and the deletion of a collection.
func (f *fixture) during(do func()) Result {
	f.t.Helper()
	r, err := f.gc.Collect(context.Background(), Request{Action: DeleteDead, MaxFreed: NoLimit, Log: func(_ int, text string) {
		if text == "deleting garbage..." {
			do()
		}
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// What a client takes, roots, adds or refers to while the collection is about
// to delete it stays, even if the client is gone by then.
func TestLateClients(t *testing.T) {
	for name, late := range map[string]func(f *fixture, p storepath.Path) (kept []storepath.Path){
		"a lease": func(f *fixture, p storepath.Path) []storepath.Path {
			l := f.store.NewLease()
			f.t.Cleanup(l.Release)
			l.Add(p)
			return nil
		},
		"a root and no lease any more": func(f *fixture, p storepath.Path) []storepath.Path {
			l := f.store.NewLease()
			l.Add(p)
			f.root("late", p)
			l.Release()
			return nil
		},
		"a path that refers to it": func(f *fixture, p storepath.Path) []storepath.Path {
			info := f.ingest("late", p)
			if err := f.store.Register(context.Background(), []pathinfo.PathInfo{info}); err != nil {
				f.t.Error(err)
			}
			return []storepath.Path{info.Path}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			dep := f.add("dep")
			p := f.add("p", dep)
			f.add("dead", p)
			var kept []storepath.Path
			f.during(func() { kept = late(f, p) })
			f.wantValid(append(kept, p, dep)...)
			f.wantReadable(p)
			f.wantReadable(dep)
		})
	}
}

// A client that wants a path that is just being deleted waits, and then finds
// it not valid; it may add it again.
func TestAddAgainAfterDeletion(t *testing.T) {
	f := newFixture(t)
	info := f.ingest("again")
	for range 50 {
		if err := f.store.Register(context.Background(), []pathinfo.PathInfo{info}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { f.collect(Request{Action: DeleteDead}) })
		l := f.store.NewLease()
		l.Add(info.Path)
		if valid, _ := f.store.PathInfo().Valid(context.Background(), []storepath.Path{info.Path}); len(valid) == 0 {
			info = f.ingest("again")
			if err := f.store.Register(context.Background(), []pathinfo.PathInfo{info}); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
		f.wantValid(info.Path)
		f.wantReadable(info.Path)
		l.Release()
	}
}

// ingest puts contents in the castore and returns the path to register. The
// contents are held until the test ends.
func (f *fixture) ingest(name string, refs ...storepath.Path) pathinfo.PathInfo {
	f.t.Helper()
	in, err := f.store.IngestFlat(context.Background(), strings.NewReader(name), false)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(in.Release)
	info := pathinfo.PathInfo{Path: pathOf(name), Root: in.Root, NarHash: in.NarHash, NarSize: in.NarSize, References: refs}
	info.Normalise()
	return info
}

// lateRoots is a service whose list of roots has a late reader: what happens
// after the list was read is not in it.
type lateRoots struct {
	pathinfo.Service
	after func()
}

func (l *lateRoots) Roots(ctx context.Context) iter.Seq2[castore.Node, error] {
	return func(yield func(castore.Node, error) bool) {
		for n, err := range l.Service.Roots(ctx) {
			if !yield(n, err) {
				return
			}
		}
		if after := l.after; after != nil {
			l.after = nil
			after()
		}
	}
}

// Contents that were put before a sweep begins, and whose path becomes valid
// when the sweep has read the roots already, are not swept.
func TestRegisterDuringSweep(t *testing.T) {
	for name, open := range map[string]func(t testing.TB) (castore.Store, pathinfo.Service){
		"memory": memoryServices, "disk": diskServices,
	} {
		t.Run(name, func(t *testing.T) {
			contents, infos := open(t)
			late := &lateRoots{Service: infos}
			f := newFixtureOn(t, contents, late)
			f.add("dead")
			archive, err := fileNAR(randomText(1, 3_000_000)) // of several chunks
			if err != nil {
				t.Fatal(err)
			}
			in, err := f.store.IngestNAR(context.Background(), bytes.NewReader(archive), store.IngestOptions{})
			if err != nil {
				t.Fatal(err)
			}
			info := pathinfo.PathInfo{Path: pathOf("late"), Root: in.Root, NarHash: in.NarHash, NarSize: in.NarSize}
			late.after = func() {
				if err := f.store.Register(context.Background(), []pathinfo.PathInfo{info}); err != nil {
					t.Error(err)
				}
				in.Release()
			}
			f.collect(Request{Action: DeleteDead})
			f.wantValid(info.Path)
			f.wantReadable(info.Path)
		})
	}
}

func (f *fixture) wantReadable(p storepath.Path) {
	f.t.Helper()
	if err := f.read(p); err != nil {
		f.t.Error(err)
	}
}

// read reads p and checks its NAR hash.
func (f *fixture) read(p storepath.Path) error {
	ctx := context.Background()
	info, err := f.store.PathInfo().Get(ctx, p)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := f.store.NARFromPath(ctx, p, &b); err != nil {
		return fmt.Errorf("read %s: %w", p, err)
	}
	if got := nixhash.Sum(nixhash.SHA256, b.Bytes()); got != info.NarHash {
		return fmt.Errorf("read %s: its NAR hash is %s, wanted %s", p, got, info.NarHash)
	}
	return nil
}

// Clients add, root and forget paths that refer to each other and share
// contents, while collections run one after the other. Whoever holds a path
// or has rooted it can read it with all that it refers to.
func TestCollectionsBesideClients(t *testing.T) {
	t.Run("memory", func(t *testing.T) { collectBesideClients(t, newFixture(t)) })
	t.Run("disk", func(t *testing.T) {
		contents, infos := diskServices(t)
		collectBesideClients(t, newFixtureOn(t, contents, infos))
	})
}

func collectBesideClients(t *testing.T, f *fixture) {
	const clients, steps = 3, 25
	var wg sync.WaitGroup
	var left atomic.Int32
	left.Store(clients)
	for n := range clients {
		wg.Go(func() {
			defer left.Add(-1)
			c := client{f: f, rng: rand.New(rand.NewPCG(uint64(n), 1)), links: t.TempDir()}
			for i := range steps {
				if err := c.step(n, i); err != nil {
					t.Errorf("client %d, step %d: %v", n, i, err)
					return
				}
			}
		})
	}
	collections := 0
	for ; left.Load() > 0 || collections < 3; collections++ {
		f.collect(Request{Action: DeleteDead})
	}
	wg.Wait()
	f.collect(Request{Action: DeleteDead})
	live := f.collect(Request{Action: ReturnLive}).Paths
	f.wantValid(live...)
	for _, p := range live {
		f.wantReadable(p)
	}
	t.Logf("%d collections, %d paths are left", collections, len(live))
}

// randomText does not compress well, and is the same for each seed.
func randomText(seed uint64, n int) string {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

func fileNAR(contents string) ([]byte, error) {
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	err := w.Header(nar.Header{Kind: nar.Regular, Size: uint64(len(contents))})
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w, contents); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// client holds some rooted paths.
type client struct {
	f     *fixture
	rng   *rand.Rand
	links string
	roots []rooted
}

type rooted struct {
	path storepath.Path
	link string
}

// step adds a path as a client does over one connection.
func (c *client) step(n, i int) error {
	ctx := context.Background()
	lease := c.f.store.NewLease()
	defer lease.Release()
	var refs []storepath.Path
	for _, r := range c.roots {
		// Rooted long ago, and without a lease since.
		if err := c.f.read(r.path); err != nil {
			return err
		}
		refs = append(refs, r.path)
	}
	name := fmt.Sprintf("c%d-%d", n, i%7) // comes again and again, with other contents
	// Other clients add the same contents, some of several chunks.
	contents := strings.Repeat(fmt.Sprintf("contents that clients share, %d\n", i%7%3), 1+i%7%3*20_000)
	archive, err := fileNAR(contents + randomText(uint64(n*1000+i), i%4*30_000))
	if err != nil {
		return err
	}
	info := pathinfo.PathInfo{
		Path: pathOf(name), References: refs,
		NarHash: nixhash.Sum(nixhash.SHA256, archive), NarSize: uint64(len(archive)),
	}
	lease.Add(info.Path)
	if err := c.f.store.AddNAR(ctx, info, bytes.NewReader(archive), store.AddOptions{}); err != nil {
		return err
	}
	if err := c.f.read(info.Path); err != nil {
		return err
	}
	if c.rng.IntN(3) == 0 {
		return nil // let go of it without a root
	}
	link := filepath.Join(c.links, name)
	os.Remove(link)
	if err := os.Symlink(c.f.full(info.Path), link); err != nil {
		return err
	}
	if err := c.f.gc.AddIndirectRoot(link); err != nil {
		return err
	}
	c.roots = append(c.roots, rooted{info.Path, link})
	if len(c.roots) > 3 {
		c.forget()
	}
	return nil
}

// forget unroots the oldest path, unless a newer root has taken its link.
func (c *client) forget() {
	oldest := c.roots[0]
	c.roots = c.roots[1:]
	for _, r := range c.roots {
		if r.link == oldest.link {
			return
		}
	}
	os.Remove(oldest.link)
}
