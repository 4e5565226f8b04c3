package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/castore"
	cmemory "github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/pathinfo"
	pmemory "github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// damagedCastore has lost some objects, and knows of damage to others.
type damagedCastore struct {
	castore.Store
	lost    map[castore.Digest]bool
	damaged map[castore.Digest]bool
}

func (d *damagedCastore) Has(ctx context.Context, digests []castore.Digest) ([]bool, error) {
	has, err := d.Store.Has(ctx, digests)
	for i := range has {
		has[i] = has[i] && !d.lost[digests[i]]
	}
	return has, err
}

func (d *damagedCastore) Open(ctx context.Context, digest castore.Digest) (castore.Blob, error) {
	if d.lost[digest] {
		return nil, castore.NotFound("blob", digest)
	}
	if d.damaged[digest] {
		return nil, castore.Corrupt("blob", digest, nil)
	}
	return d.Store.Open(ctx, digest)
}

func (d *damagedCastore) GetDirectory(ctx context.Context, digest castore.Digest) (*castore.Directory, error) {
	if d.lost[digest] {
		return nil, castore.NotFound("directory", digest)
	}
	return d.Store.GetDirectory(ctx, digest)
}

func (d *damagedCastore) Verify(ctx context.Context, report func(castore.Problem)) error {
	for digest := range d.damaged {
		report(castore.Problem{Digest: digest, Where: "pack 1", Err: castore.Corrupt("blob", digest, nil)})
	}
	return d.Store.Verify(ctx, report)
}

func dirNAR(t testing.TB, name, contents string) []byte {
	return events(t, nar.Header{Kind: nar.Directory},
		nar.Header{Name: "sub", Kind: nar.Directory},
		nar.Header{Name: name, Kind: nar.Regular, Size: uint64(len(contents))}, contents,
		nar.Header{Kind: nar.EndDirectory},
		nar.Header{Kind: nar.EndDirectory})
}

func TestVerifyAll(t *testing.T) {
	shared, own := castore.Sum([]byte("shared")), castore.Sum([]byte("own"))
	type digests = map[castore.Digest]bool
	rootOf := func(t *testing.T, s *store.Store, name string) castore.Digest {
		root, err := s.Root(t.Context(), path(name))
		if err != nil {
			t.Fatal(err)
		}
		return root.Digest
	}
	tests := []struct {
		name       string
		lost       digests
		damaged    digests
		loseRootOf string
		contents   bool
		want       []string
		unused     int
	}{
		{name: "whole"},
		{name: "whole, contents", contents: true},
		{name: "lost blob", lost: digests{own: true}, want: []string{"c"}},
		{name: "lost blob, contents", lost: digests{own: true}, contents: true, want: []string{"c"}},
		{name: "lost shared blob", lost: digests{shared: true}, want: []string{"a", "b", "f"}},
		{name: "lost directory", loseRootOf: "c", want: []string{"c"}},
		{name: "damaged", damaged: digests{shared: true}, contents: true, want: []string{"a", "b", "f"}},
		{name: "damaged, not looked for", damaged: digests{shared: true}},
		{name: "damage that hurts nobody", damaged: digests{castore.Sum([]byte("x")): true}, contents: true, unused: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			broken := &damagedCastore{Store: cmemory.New(), lost: tt.lost, damaged: tt.damaged}
			s := store.New(store.Options{Castore: broken, PathInfo: pmemory.New()})
			healthy := *broken
			broken.lost, broken.damaged = nil, nil
			addNAR(t, s, path("a"), dirNAR(t, "one", "shared"))
			addNAR(t, s, path("b"), dirNAR(t, "two", "shared"))
			addNAR(t, s, path("c"), dirNAR(t, "one", "own"))
			addNAR(t, s, path("d"), events(t, nar.Header{Kind: nar.Symlink, Target: "x"}))
			addNAR(t, s, path("f"), file(t, "shared"))
			broken.lost, broken.damaged = healthy.lost, healthy.damaged
			if tt.loseRootOf != "" {
				broken.lost = digests{rootOf(t, s, tt.loseRootOf): true}
			}
			var got []string
			var repaired, unused int
			err := s.VerifyAll(t.Context(), store.VerifyOptions{
				CheckContents: tt.contents,
				Repair: func(_ context.Context, p storepath.Path) error {
					if p == path("b") {
						return errors.New("nowhere to be had")
					}
					return nil
				},
			}, func(p store.Problem) {
				switch {
				case p.Path.IsZero():
					unused++
				case p.Repaired:
					repaired++
				default:
					got = append(got, p.Path.Name())
				}
				if p.Err == nil {
					t.Error("a problem without an error")
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) || unused != tt.unused {
				t.Errorf("damaged %q, unused %d; want %q, %d", got, unused, tt.want, tt.unused)
			}
			if slices.Contains(got, "b") {
				repaired++
			}
			if repaired != len(got) {
				t.Errorf("%d of %d repaired", repaired, len(got))
			}
		})
	}
}

func TestVerifyAllModified(t *testing.T) {
	s := newStore(t)
	addNAR(t, s, path("a"), file(t, "a"))
	addNAR(t, s, path("b"), file(t, "b"))
	a, err := s.PathInfo().Get(t.Context(), path("a"))
	if err != nil {
		t.Fatal(err)
	}
	other := claim(path("b"), file(t, "c"))
	other.Root = a.Root
	if err := s.PathInfo().Replace(t.Context(), []pathinfo.PathInfo{other}); err != nil {
		t.Fatal(err)
	}
	var texts []string
	err = s.VerifyAll(t.Context(), store.VerifyOptions{CheckContents: true}, func(p store.Problem) {
		texts = append(texts, p.Err.Error())
	})
	want := fmt.Sprintf("path '/nix/store/%s' was modified! expected hash '%s', got '%s'", path("b"), other.NarHash, a.NarHash)
	if err != nil || len(texts) != 1 || texts[0] != want {
		t.Errorf("problems %q, error %v", texts, err)
	}
}

func TestVerifyAllCancelled(t *testing.T) {
	s := newStore(t)
	for i := range 50 {
		addNAR(t, s, path(fmt.Sprint("p", i)), dirNAR(t, "f", fmt.Sprint(i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.VerifyAll(ctx, store.VerifyOptions{CheckContents: true}, func(p store.Problem) {
		t.Errorf("problem: %v", p.Err)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestIngestFlat(t *testing.T) {
	s := newStore(t)
	for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5 << 20} {
		contents := strings.Repeat("x", size)
		in, err := s.IngestFlat(t.Context(), strings.NewReader(contents), true)
		if err != nil {
			t.Fatal(err)
		}
		want := events(t, nar.Header{Kind: nar.Regular, Size: uint64(size), Executable: true}, contents)
		if info := claim(path("p"), want); in.NarHash != info.NarHash || in.NarSize != info.NarSize {
			t.Errorf("%d bytes: NAR hash %v, size %d", size, in.NarHash, in.NarSize)
		}
		in.Release()
	}
	gone := errors.New("gone")
	_, err := s.IngestFlat(t.Context(), readerFunc(func([]byte) (int, error) { return 0, gone }), false)
	if !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}

func TestRenderErrors(t *testing.T) {
	broken := &damagedCastore{Store: cmemory.New()}
	s := store.New(store.Options{Castore: broken, PathInfo: pmemory.New()})
	dump := treeDump(t)
	addNAR(t, s, path("p"), dump)

	full := errors.New("client has gone")
	for _, limit := range []int{0, 1000, len(dump) / 2, len(dump) - 1} {
		w := &limitedWriter{left: limit, err: full}
		if err := s.NARFromPath(t.Context(), path("p"), w); !errors.Is(err, full) {
			t.Errorf("writer of %d bytes: error %v", limit, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.NARFromPath(ctx, path("p"), writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	}))
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	err = s.NARFromPath(t.Context(), path("missing"), &bytes.Buffer{})
	if !errors.Is(err, pathinfo.ErrNotFound) {
		t.Errorf("not valid: error %v", err)
	}

	// Lose every object in turn.
	lose := func(lost castore.Digest) {
		broken.lost = map[castore.Digest]bool{lost: true}
		if err := s.NARFromPath(t.Context(), path("p"), &bytes.Buffer{}); !errors.Is(err, castore.ErrNotFound) {
			t.Errorf("lost object: error %v", err)
		}
		broken.lost = nil
	}
	root, err := s.Root(t.Context(), path("p"))
	if err != nil {
		t.Fatal(err)
	}
	lose(root.Digest)
	dir, err := s.Castore().GetDirectory(t.Context(), root.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range dir.Entries {
		if e.Node.Kind != castore.KindSymlink && e.Node.Digest != castore.EmptyDigest {
			lose(e.Node.Digest)
		}
	}
}

type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return w.left, w.err
	}
	w.left -= len(p)
	return len(p), nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestRootsAndReadFile(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	addNAR(t, s, path("a"), dirNAR(t, "f", "contents"))
	addNAR(t, s, path("b"), file(t, "b"))
	var names []string
	for e, err := range s.Roots().List(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		node, err := s.Roots().Lookup(ctx, e.Name)
		if err != nil || node != e.Node {
			t.Errorf("%s: node %v, want %v, error %v", e.Name, node, e.Node, err)
		}
		names = append(names, e.Name)
	}
	want := []string{path("a").Base(), path("b").Base()}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("list %q", names)
	}
	for _, name := range []string{"", "x", path("c").Base(), path("a").HashPart() + "-b", path("a").Base() + "x"} {
		if _, err := s.Roots().Lookup(ctx, name); !errors.Is(err, castore.ErrNotFound) {
			t.Errorf("look up %q: error %v", name, err)
		}
	}
	for sub, want := range map[string]string{"sub/f": "contents", "sub//f": "contents"} {
		if got, err := s.ReadFile(ctx, path("a"), sub); err != nil || string(got) != want {
			t.Errorf("read %q: %q, error %v", sub, got, err)
		}
	}
	for _, sub := range []string{"", "sub", "sub/x", "sub/f/x", "..", "x"} {
		if got, err := s.ReadFile(ctx, path("a"), sub); err == nil {
			t.Errorf("read %q: %q", sub, got)
		}
	}
}
