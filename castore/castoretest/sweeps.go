package castoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	gosync "sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tvixd/tvixd/castore"
)

// tree puts a small tree that depends on the seed and shares some contents with
// all others, and returns its root.
func tree(tb testing.TB, s castore.Store, seed uint64) castore.Node {
	tb.Helper()
	n, err := makeTree(s, seed)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func makeTree(s castore.Store, seed uint64) (castore.Node, error) {
	var root castore.Directory
	for i := range uint64(4) {
		var dir castore.Directory
		for k := range uint64(6) {
			data := text(int(seed*131+i*17+k*5)%9000, seed*100+i*10+k)
			if k%3 == 0 {
				data = text(500, i*10+k) // the same in all trees
			}
			if _, err := s.PutBlob(context.Background(), data); err != nil {
				return castore.Node{}, err
			}
			dir.Entries = append(dir.Entries, file(fmt.Sprint("f", k), data))
		}
		if _, err := s.PutDirectory(context.Background(), &dir); err != nil {
			return castore.Node{}, err
		}
		root.Entries = append(root.Entries, dirEntry(fmt.Sprint("d", i), dir.Node()))
	}
	if _, err := s.PutDirectory(context.Background(), &root); err != nil {
		return castore.Node{}, err
	}
	return root.Node(), nil
}

func testSweep(t *testing.T, suite Suite) {
	s := open(t, suite)
	var roots []castore.Node
	for i := range uint64(20) {
		roots = append(roots, tree(t, s, i))
	}
	single := castore.Node{Kind: castore.KindFile, Digest: put(t, s, []byte("a single file")), Size: 13}
	link := castore.Node{Kind: castore.KindSymlink, Target: "nowhere"}
	sync(t, s)
	all := append([]castore.Node{single, link}, roots...)
	if res := sweep(t, s, all...); res.Dropped != 0 || res.Live == 0 {
		t.Fatalf("sweep with everything alive: %+v", res)
	}
	res := sweep(t, s, roots[3], roots[7], single, link)
	if res.Dropped == 0 || res.DroppedBytes == 0 {
		t.Fatalf("sweep dropped nothing: %+v", res)
	}
	for i, r := range roots {
		if i == 3 || i == 7 {
			wantTree(t, s, r)
		} else if _, err := s.GetDirectory(context.Background(), r.Digest); !errors.Is(err, castore.ErrNotFound) {
			t.Fatalf("dead root %d: got %v, want ErrNotFound", i, err)
		}
	}
	wantTree(t, s, single)
	if again := sweep(t, s, roots[3], roots[7], single, link); again.Dropped != 0 || again.Live != res.Live {
		t.Fatalf("second sweep: %+v after %+v", again, res)
	}
	if p := verify(t, s); len(p) > 0 {
		t.Fatalf("problems after sweep: %v", p)
	}
}

func testSweepAll(t *testing.T, suite Suite) {
	s := open(t, suite)
	sweep(t, s)
	for range 3 {
		for i := range uint64(10) {
			tree(t, s, i)
		}
		put(t, s, random(3<<20, 5))
		sync(t, s)
		sweep(t, s)
		st, err := s.Stats(context.Background())
		if err != nil || st.Objects != 0 || st.StoredBytes != 0 {
			t.Fatalf("after a sweep of everything: %+v, %v", st, err)
		}
		wantGone(t, s, castore.Sum(random(3<<20, 5)))
	}
}

func testSweepChunks(t *testing.T, suite Suite) {
	s := open(t, suite)
	a := random(6<<20, 1)
	b := bytes.Clone(a)
	copy(b[3<<20:], "a change in the middle")
	put(t, s, a)
	put(t, s, b)
	sync(t, s)
	nb := castore.Node{Kind: castore.KindFile, Digest: castore.Sum(b), Size: uint64(len(b))}
	sweep(t, s, nb)
	wantGone(t, s, castore.Sum(a))
	wantBlob(t, s, b)
	put(t, s, a)
	wantBlob(t, s, a)
	sync(t, s)
	sweep(t, s, putDir(t, s, file("a", a)))
	wantBlob(t, s, a)
	wantGone(t, s, nb.Digest)
	if p := verify(t, s); len(p) > 0 {
		t.Fatalf("problems after sweep: %v", p)
	}
}

// testSweepSharedDigest has the encoding of a directory alive as a file, before
// the directory itself: marking the one must not hide the other.
func testSweepSharedDigest(t *testing.T, suite Suite) {
	s := open(t, suite)
	put(t, s, []byte("below"))
	inner := &castore.Directory{Entries: []castore.Entry{file("below", []byte("below"))}}
	put(t, s, inner.Encode())
	putDir(t, s, inner.Entries...)
	root := putDir(t, s, file("a", inner.Encode()), dirEntry("b", inner.Node()))
	other := castore.Node{Kind: castore.KindFile, Digest: inner.Digest(), Size: uint64(len(inner.Encode()))}
	sync(t, s)
	sweep(t, s, other, root)
	wantTree(t, s, root)
	sweep(t, s, other)
	wantBlob(t, s, inner.Encode())
	wantGone(t, s, castore.Sum([]byte("below")))
}

type failingRoots struct{ err error }

func (f failingRoots) Roots(context.Context) iter.Seq2[castore.Node, error] {
	return func(yield func(castore.Node, error) bool) { yield(castore.Node{}, f.err) }
}

func testSweepRootsError(t *testing.T, suite Suite) {
	s := open(t, suite)
	root := tree(t, s, 1)
	sync(t, s)
	bad := errors.New("no roots today")
	if _, err := s.Sweep(context.Background(), failingRoots{bad}, castore.SweepOptions{}); !errors.Is(err, bad) {
		t.Fatalf("Sweep: %v", err)
	}
	wantTree(t, s, root)
}

func testHold(t *testing.T, suite Suite) {
	s := open(t, suite)
	old := tree(t, s, 1)
	release := s.Hold()
	young := tree(t, s, 2)
	big := random(2<<20, 9)
	put(t, s, big)
	sync(t, s)
	release2 := s.Hold()
	sweep(t, s)
	wantTree(t, s, young)
	wantBlob(t, s, big)
	if _, err := s.GetDirectory(context.Background(), old.Digest); !errors.Is(err, castore.ErrNotFound) {
		t.Fatalf("what was put before the hold: %v", err)
	}
	release()
	release()
	sweep(t, s)
	if _, err := s.GetDirectory(context.Background(), young.Digest); !errors.Is(err, castore.ErrNotFound) {
		t.Fatalf("what was put before the second hold: %v", err)
	}
	wantGone(t, s, castore.Sum(big))
	release2()
}

// testHoldFound finds dead blobs present under a hold.
func testHoldFound(t *testing.T, suite Suite) {
	s := open(t, suite)
	small, big := text(1000, 1), random(2<<20, 1)
	put(t, s, small)
	put(t, s, big)
	put(t, s, text(1000, 2))
	sync(t, s)
	release := s.Hold()
	defer release()
	if !has(t, s, castore.Sum(small)) || !has(t, s, castore.Sum(big)) {
		t.Fatal("Has is false")
	}
	put(t, s, text(1000, 2))
	sweep(t, s)
	wantBlob(t, s, small)
	wantBlob(t, s, big)
	wantBlob(t, s, text(1000, 2))
}

// testHoldDirectory holds a directory: what is below it must stay too.
func testHoldDirectory(t *testing.T, suite Suite) {
	s := open(t, suite)
	root := tree(t, s, 1)
	sync(t, s)
	dir, err := s.GetDirectory(context.Background(), root.Digest)
	if err != nil {
		t.Fatal(err)
	}
	release := s.Hold()
	putDir(t, s, dir.Entries...)
	sweep(t, s)
	wantTree(t, s, root)
	release()
	sweep(t, s)
	if has(t, s, root.Digest) {
		t.Fatal("directory survives its hold")
	}
}

// lateRoots runs a function when the roots were read.
type lateRoots struct{ after func() }

func (l lateRoots) Roots(context.Context) iter.Seq2[castore.Node, error] {
	return func(func(castore.Node, error) bool) { l.after() }
}

// testReleaseDuringSweep ends a hold when the sweep has read its roots, as
// somebody does who has made alive what he held.
func testReleaseDuringSweep(t *testing.T, suite Suite) {
	s := open(t, suite)
	release := s.Hold()
	root := tree(t, s, 1)
	big := random(2<<20, 1)
	put(t, s, big)
	sync(t, s)
	other := s.Hold()
	_, err := s.Sweep(context.Background(), lateRoots{func() {
		release()
		other()
	}}, castore.SweepOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantTree(t, s, root)
	wantBlob(t, s, big)
	sweep(t, s)
	wantGone(t, s, castore.Sum(big))
}

func testPutAfterSweep(t *testing.T, suite Suite) {
	s := open(t, suite)
	for range 3 {
		root := tree(t, s, 7)
		put(t, s, random(2<<20, 7))
		sync(t, s)
		wantTree(t, s, root)
		wantBlob(t, s, random(2<<20, 7))
		sweep(t, s, tree(t, s, 8))
		wantTree(t, s, tree(t, s, 8))
	}
}

// registry is the set of live roots of the load test.
type registry struct {
	mu    gosync.Mutex
	roots map[castore.Node]bool
}

func (r *registry) Roots(context.Context) iter.Seq2[castore.Node, error] {
	r.mu.Lock()
	defer r.mu.Unlock()
	var roots castore.LiveNodes
	for n := range r.roots {
		roots = append(roots, n)
	}
	return roots.Roots(context.Background())
}

// testSweepUnderLoad adds, reads and removes trees as a store of paths does,
// while one sweep follows the other. Trees come back after they were removed, so
// that much is found present that is about to go.
func testSweepUnderLoad(t *testing.T, suite Suite) {
	s := open(t, suite)
	reg := &registry{roots: make(map[castore.Node]bool)}
	var g errgroup.Group
	done := make(chan struct{})
	var workers gosync.WaitGroup
	for k := range uint64(4) {
		workers.Add(1)
		g.Go(func() error {
			defer workers.Done()
			for i := range uint64(30) {
				if err := addAndForget(s, reg, (i*7+k)%12, i%3 == 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	go func() {
		workers.Wait()
		close(done)
	}()
	g.Go(func() error {
		for {
			if _, err := s.Sweep(context.Background(), reg, castore.SweepOptions{}); err != nil {
				return err
			}
			select {
			case <-done:
				return nil
			default:
			}
		}
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for n := range reg.roots {
		wantTree(t, s, n)
	}
	sweep(t, s)
	if st, _ := s.Stats(context.Background()); st.Objects != 0 {
		t.Fatalf("after a sweep of everything: %+v", st)
	}
}

// addAndForget puts a tree under a hold, registers it, reads it, and perhaps
// takes it away again.
func addAndForget(s castore.Store, reg *registry, seed uint64, forget bool) error {
	release := s.Hold()
	defer release()
	root, err := makeTree(s, seed)
	if err != nil {
		return err
	}
	big := random(1<<20+1+int(seed), seed)
	if seed%4 == 0 {
		if _, err := s.PutBlob(context.Background(), big); err != nil {
			return err
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		return err
	}
	reg.mu.Lock()
	reg.roots[root] = true
	reg.mu.Unlock()
	if err := walk(s, root); err != nil {
		return fmt.Errorf("tree %d: %w", seed, err)
	}
	if seed%4 == 0 {
		if got, err := read(s, castore.Sum(big)); err != nil || !bytes.Equal(got, big) {
			return fmt.Errorf("large blob of tree %d: %w", seed, err)
		}
	}
	if forget {
		reg.mu.Lock()
		delete(reg.roots, root)
		reg.mu.Unlock()
	}
	return nil
}

// testSweepUnderReaders reads live blobs while what lies beside them is swept:
// they must never fail, and dead ones read right or not at all.
func testSweepUnderReaders(t *testing.T, suite Suite) {
	s := open(t, suite)
	live := tree(t, s, 0)
	big := random(2<<20, 1)
	put(t, s, big)
	roots := castore.LiveNodes{live, {Kind: castore.KindFile, Digest: castore.Sum(big), Size: uint64(len(big))}}
	stop := make(chan struct{})
	var g errgroup.Group
	for range 3 {
		g.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := walk(s, live); err != nil {
					return err
				}
				if got, err := read(s, castore.Sum(big)); err != nil || !bytes.Equal(got, big) {
					return fmt.Errorf("large blob: %w", err)
				}
			}
		})
	}
	for i := range uint64(5) {
		dead := tree(t, s, 100+i)
		deadBig := random(2<<20, 100+i)
		put(t, s, deadBig)
		sync(t, s)
		b, err := s.Open(context.Background(), castore.Sum(deadBig))
		if err != nil {
			t.Fatal(err)
		}
		sweep(t, s, roots...)
		if n, err := b.ReadAt(make([]byte, 1<<20), 1<<20); err != nil && !errors.Is(err, castore.ErrNotFound) {
			t.Fatalf("read of a swept blob: %d, %v", n, err)
		}
		b.Close()
		if has(t, s, dead.Digest) {
			t.Fatal("dead tree is there")
		}
	}
	close(stop)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}
