package store_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/castore"
	cmemory "github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	pmemory "github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// newStore returns an empty store in memory.
func newStore(testing.TB) *store.Store {
	return store.New(store.Options{Castore: cmemory.New(), PathInfo: pmemory.New()})
}

// path returns a store path that depends on the name alone.
func path(name string) storepath.Path {
	h := nixhash.Sum(nixhash.SHA256, []byte(name)).Bytes()
	p, err := storepath.New([20]byte(h[:20]), name)
	if err != nil {
		panic(err)
	}
	return p
}

// file is the NAR of a plain file.
func file(t testing.TB, contents string) []byte {
	return events(t, nar.Header{Kind: nar.Regular, Size: uint64(len(contents))}, contents)
}

// events is the NAR of headers and, as strings, contents.
func events(t testing.TB, list ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	for _, e := range list {
		var err error
		switch e := e.(type) {
		case nar.Header:
			err = w.Header(e)
		case string:
			_, err = io.WriteString(w, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// claim is what a client says of a NAR.
func claim(p storepath.Path, dump []byte, refs ...storepath.Path) pathinfo.PathInfo {
	return pathinfo.PathInfo{
		Path:       p,
		NarHash:    nixhash.Sum(nixhash.SHA256, dump),
		NarSize:    uint64(len(dump)),
		References: refs,
	}
}

func addNAR(t testing.TB, s *store.Store, p storepath.Path, dump []byte, refs ...storepath.Path) {
	t.Helper()
	if err := s.AddNAR(t.Context(), claim(p, dump, refs...), bytes.NewReader(dump), store.AddOptions{}); err != nil {
		t.Fatalf("AddNAR: %v", err)
	}
}

// checkNAR checks that a valid path renders as dump.
func checkNAR(t testing.TB, s *store.Store, p storepath.Path, dump []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := s.NARFromPath(t.Context(), p, &b); err != nil {
		t.Fatalf("NARFromPath: %v", err)
	}
	if !bytes.Equal(b.Bytes(), dump) {
		t.Errorf("NAR of %s has %d other bytes than what was added (%d)", p, b.Len(), len(dump))
	}
}

func isValid(t testing.TB, s *store.Store, p storepath.Path) bool {
	t.Helper()
	valid, err := s.PathInfo().Valid(t.Context(), []storepath.Path{p})
	if err != nil {
		t.Fatal(err)
	}
	return len(valid) == 1
}

// treeSpec says how large a tree is.
type treeSpec struct {
	dirs, files, links int
	large              []int // sizes of extra files
	maxSmall           int
}

// writeTree makes a tree on disk that depends on the seed alone.
func writeTree(t testing.TB, root string, seed uint64, spec treeSpec) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dirs := []string{root}
	must(os.Mkdir(root, 0o755))
	for i := range spec.dirs {
		d := filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("dir-%d", i))
		must(os.Mkdir(d, 0o755))
		dirs = append(dirs, d)
	}
	sizes := spec.large
	for range spec.files {
		sizes = append(sizes, r.IntN(spec.maxSmall+1))
	}
	for i, size := range sizes {
		mode := os.FileMode(0o644)
		if i%3 == 0 {
			mode = 0o755
		}
		data := make([]byte, size)
		fill(r, data)
		must(os.WriteFile(filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("file-%d", i)), data, mode))
	}
	for i := range spec.links {
		must(os.Symlink(fmt.Sprintf("../target-%d", i), filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("link-%d", i))))
	}
}

// fill writes data that is half random and half text.
func fill(r *rand.Rand, data []byte) {
	for i := 0; i+8 <= len(data); i += 8 {
		v := r.Uint64()
		if v&(1<<62) != 0 {
			copy(data[i:], "ab cdefg")
			continue
		}
		for j := range 8 {
			data[i+j] = byte(v >> (8 * j))
		}
	}
}

func dumpPath(t testing.TB, root string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := nar.DumpPath(&b, root); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// treeDump is the NAR of a tree of some of everything.
func treeDump(t testing.TB) []byte {
	root := filepath.Join(t.TempDir(), "tree")
	writeTree(t, root, 1, treeSpec{
		dirs: 30, files: 300, links: 20, maxSmall: 20_000,
		large: []int{0, 1, 1 << 20, 1<<20 + 1, 3<<20 + 12345},
	})
	return dumpPath(t, root)
}

// brokenCastore fails where it is told to.
type brokenCastore struct {
	castore.Store
	putBlob func() error
	putDir  func() error
	sync    func() error
}

func (b *brokenCastore) PutBlob(ctx context.Context, data []byte) (castore.Digest, error) {
	if b.putBlob != nil {
		if err := b.putBlob(); err != nil {
			return castore.Digest{}, err
		}
	}
	return b.Store.PutBlob(ctx, data)
}

func (b *brokenCastore) PutDirectory(ctx context.Context, d *castore.Directory) (castore.Digest, error) {
	if b.putDir != nil {
		if err := b.putDir(); err != nil {
			return castore.Digest{}, err
		}
	}
	return b.Store.PutDirectory(ctx, d)
}

func (b *brokenCastore) Sync(ctx context.Context) error {
	if b.sync != nil {
		if err := b.sync(); err != nil {
			return err
		}
	}
	return b.Store.Sync(ctx)
}
