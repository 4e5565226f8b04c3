package castoretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

func testDirectories(t *testing.T, suite Suite) {
	s := open(t, suite)
	put(t, s, []byte("contents"))
	leaf := putDir(t, s, file("f", []byte("contents")))
	link := castore.Entry{Name: "l", Node: castore.Node{Kind: castore.KindSymlink, Target: "../x"}}
	exec := file("e", []byte("contents"))
	exec.Node.Executable = true
	root := putDir(t, s, dirEntry("d", leaf), exec, link, dirEntry("z", leaf))
	empty := putDir(t, s)
	for range 2 {
		dir, err := s.GetDirectory(context.Background(), root.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if want := []castore.Entry{dirEntry("d", leaf), exec, link, dirEntry("z", leaf)}; !slices.Equal(dir.Entries, want) {
			t.Fatalf("got %+v, want %+v", dir.Entries, want)
		}
		// The caller owns what it got.
		dir.Entries[0] = castore.Entry{}
		if dir, err = s.GetDirectory(context.Background(), empty.Digest); err != nil || len(dir.Entries) != 0 {
			t.Fatalf("empty directory: %+v, %v", dir, err)
		}
		wantTree(t, s, root)
		sync(t, s)
	}
}

func testLargeDirectory(t *testing.T, suite Suite) {
	s := open(t, suite)
	var entries []castore.Entry
	for i := range 40_000 {
		entries = append(entries, castore.Entry{Name: fmt.Sprintf("entry-%06d", i),
			Node: castore.Node{Kind: castore.KindFile, Digest: castore.Sum(fmt.Append(nil, i)), Size: uint64(i)}})
	}
	n := putDir(t, s, entries...)
	sync(t, s)
	dir, err := s.GetDirectory(context.Background(), n.Digest)
	if err != nil || !slices.Equal(dir.Entries, entries) {
		t.Fatalf("large directory: %v", err)
	}
}

func testInvalidDirectory(t *testing.T, suite Suite) {
	s := open(t, suite)
	for _, dir := range []*castore.Directory{
		{Entries: []castore.Entry{file("", nil)}},
		{Entries: []castore.Entry{file("a/b", nil)}},
		{Entries: []castore.Entry{file("b", nil), file("a", nil)}},
		{Entries: []castore.Entry{file("a", nil), file("a", nil)}},
		{Entries: []castore.Entry{{Name: "l", Node: castore.Node{Kind: castore.KindSymlink}}}},
	} {
		if _, err := s.PutDirectory(context.Background(), dir); !errors.Is(err, castore.ErrInvalid) {
			t.Errorf("PutDirectory(%+v): got %v, want ErrInvalid", dir, err)
		}
	}
}

func testBlobIsNoDirectory(t *testing.T, suite Suite) {
	s := open(t, suite)
	d := put(t, s, []byte("this is no directory"))
	large := put(t, s, random(2<<20, 1))
	for range 2 {
		for _, d := range []castore.Digest{d, large} {
			if _, err := s.GetDirectory(context.Background(), d); !errors.Is(err, castore.ErrNotFound) {
				t.Fatalf("GetDirectory: got %v, want ErrNotFound", err)
			}
		}
		sync(t, s)
	}
}

// testSharedDigest stores the encoding of a directory as a blob as well.
func testSharedDigest(t *testing.T, suite Suite) {
	s := open(t, suite)
	put(t, s, []byte("x"))
	dir := &castore.Directory{Entries: []castore.Entry{file("x", []byte("x"))}}
	put(t, s, dir.Encode())
	wantTree(t, s, putDir(t, s, dir.Entries...))
	wantBlob(t, s, dir.Encode())
	sync(t, s)
	wantTree(t, s, dir.Node())
	wantBlob(t, s, dir.Encode())
}
