package castoretest

import (
	"context"
	"errors"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

func testReopen(t *testing.T, suite Suite) {
	if suite.Reopen == nil {
		t.Skip("nothing survives the end of this store")
	}
	s := open(t, suite)
	var roots []castore.Node
	for i := range uint64(4) {
		roots = append(roots, tree(t, s, i))
		big := random(3<<20, i)
		put(t, s, big)
		if i%2 == 0 {
			sync(t, s)
		}
		s = suite.Reopen(t, s)
		t.Cleanup(func() { s.Close() })
		for k := range i + 1 {
			wantTree(t, s, roots[k])
			wantBlob(t, s, random(3<<20, k))
		}
	}
	before, err := s.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(4) {
		tree(t, s, i)
		put(t, s, random(3<<20, i))
	}
	sync(t, s)
	if after, _ := s.Stats(context.Background()); after.Objects != before.Objects || after.StoredBytes != before.StoredBytes {
		t.Fatalf("puts of what is there changed %+v to %+v", before, after)
	}
	sweep(t, s, roots[1])
	s = suite.Reopen(t, s)
	wantTree(t, s, roots[1])
	if has(t, s, roots[2].Digest) {
		t.Fatal("swept tree came back")
	}
}

func testDamage(t *testing.T, suite Suite) {
	if suite.Damage == nil {
		t.Skip("this store cannot be damaged from outside")
	}
	s := open(t, suite)
	small, big := text(3000, 1), random(3<<20, 2)
	put(t, s, small)
	put(t, s, big)
	dir := putDir(t, s, file("small", small))
	sync(t, s)
	for _, victim := range []castore.Digest{castore.Sum(small), castore.Sum(big), dir.Digest} {
		suite.Damage(t, s, victim)
		if suite.Reopen != nil {
			s = suite.Reopen(t, s)
			t.Cleanup(func() { s.Close() })
		}
		_, err := read(s, victim)
		if !errors.Is(err, castore.ErrCorrupt) {
			t.Fatalf("read of a damaged blob: got %v, want ErrCorrupt", err)
		}
		if has(t, s, victim) {
			t.Fatal("Has is true for a blob known to be damaged")
		}
		found := false
		for _, p := range verify(t, s) {
			found = found || p.Digest == victim
			if !errors.Is(p.Err, castore.ErrCorrupt) {
				t.Errorf("problem without ErrCorrupt: %+v", p)
			}
		}
		if !found {
			t.Fatal("Verify does not name the damaged blob")
		}
		// A put heals, also in a process that has not seen the damage yet.
		if suite.Reopen != nil {
			s = suite.Reopen(t, s)
			t.Cleanup(func() { s.Close() })
		}
		put(t, s, small)
		put(t, s, big)
		putDir(t, s, file("small", small))
		for range 2 {
			wantBlob(t, s, small)
			wantBlob(t, s, big)
			wantTree(t, s, dir)
			sync(t, s)
		}
		sweep(t, s, dir, castore.Node{Kind: castore.KindFile, Digest: castore.Sum(big), Size: uint64(len(big))})
		wantBlob(t, s, big)
		wantTree(t, s, dir)
		if p := verify(t, s); len(p) > 0 {
			t.Fatalf("problems after healing: %+v", p)
		}
	}
}
