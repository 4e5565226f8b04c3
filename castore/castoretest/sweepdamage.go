package castoretest

import (
	"context"
	"errors"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

// wantRefused sweeps with something alive that cannot be read: the error names it
// and its root, and nothing at all is dropped.
func wantRefused(t *testing.T, s castore.Store, root castore.Node, cause error, others ...castore.Node) {
	t.Helper()
	before, err := s.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	roots := append(castore.LiveNodes{root}, others...)
	res, err := s.Sweep(context.Background(), roots, castore.SweepOptions{})
	var damage *castore.DamageError
	if !errors.As(err, &damage) || len(damage.Objects) != 1 {
		t.Fatalf("sweep: %+v, %v; want a DamageError of one object", res, err)
	}
	if o := damage.Objects[0]; o.Root != root || !errors.Is(o.Err, cause) {
		t.Fatalf("sweep: damage %+v, want %v below %v", o, cause, root)
	}
	after, err := s.Stats(context.Background())
	if err != nil || res != (castore.SweepResult{}) || after.Objects != before.Objects || after.StoredBytes != before.StoredBytes {
		t.Fatalf("sweep: %+v; store had %+v, has %+v, %v", res, before, after, err)
	}
}

// testSweepMissing has live roots below which something is not there.
func testSweepMissing(t *testing.T, suite Suite) {
	s := open(t, suite)
	root, dead := tree(t, s, 1), tree(t, s, 2)
	sync(t, s)
	gone := castore.Sum([]byte("missing"))
	for _, kind := range []castore.NodeKind{castore.KindDirectory, castore.KindFile} {
		missing := castore.Node{Kind: kind, Digest: gone, Size: 7}
		below := putDir(t, s, dirEntry("a", root), dirEntry("b", missing))
		sync(t, s)
		wantRefused(t, s, missing, castore.ErrNotFound, root)
		wantRefused(t, s, below, castore.ErrNotFound, root)
		wantTree(t, s, dead)
	}
	sweep(t, s, root)
	wantTree(t, s, root)
	wantGone(t, s, dead.Digest)
}

// testSweepDamaged damages what is alive and leads to more.
func testSweepDamaged(t *testing.T, suite Suite) {
	if suite.Damage == nil {
		t.Skip("this store cannot be damaged from outside")
	}
	s := open(t, suite)
	big := random(3<<20, 1)
	put(t, s, big)
	child := tree(t, s, 1)
	entries := []castore.Entry{file("big", big), dirEntry("child", child)}
	root := putDir(t, s, entries...)
	for _, victim := range []castore.Digest{root.Digest, child.Digest, castore.Sum(big)} {
		suite.Damage(t, s, victim)
		if suite.Reopen != nil {
			s = suite.Reopen(t, s)
			t.Cleanup(func() { s.Close() })
		}
		dead := tree(t, s, 2)
		sync(t, s)
		wantRefused(t, s, root, castore.ErrCorrupt)
		wantTree(t, s, dead)
		// The damage may have hit neighbours.
		tree(t, s, 1)
		put(t, s, big)
		putDir(t, s, entries...)
		wantTree(t, s, root)
		sweep(t, s, root)
		wantTree(t, s, root)
		wantGone(t, s, dead.Digest)
	}
}

// testSweepHeldMissing holds a directory of which a part was never put: nobody was
// promised that it is whole, so that does not keep the sweep.
func testSweepHeldMissing(t *testing.T, suite Suite) {
	s := open(t, suite)
	dead := tree(t, s, 1)
	sync(t, s)
	release := s.Hold()
	defer release()
	missing := castore.Node{Kind: castore.KindDirectory, Digest: castore.Sum([]byte("missing"))}
	held := putDir(t, s, dirEntry("a", missing), file("b", []byte("missing too")))
	sweep(t, s)
	if !has(t, s, held.Digest) || has(t, s, dead.Digest) {
		t.Fatal("the wrong directory was swept")
	}
}
