package fusetest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"

	"github.com/tvixd/tvixd/castore"
)

// Import puts a tree of a disk into a castore and returns its node.
func Import(ctx context.Context, store castore.Store, path string) (castore.Node, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return castore.Node{}, err
	}
	switch {
	case st.Mode().IsRegular():
		return importFile(ctx, store, path, st)
	case st.Mode().Type() == os.ModeSymlink:
		target, err := os.Readlink(path)
		return castore.Node{Kind: castore.KindSymlink, Target: target}, err
	case st.IsDir():
		return importDirectory(ctx, store, path)
	}
	return castore.Node{}, fmt.Errorf("import %s: unsupported type %s", path, st.Mode().Type())
}

func importFile(ctx context.Context, store castore.Store, path string, st os.FileInfo) (castore.Node, error) {
	n := castore.Node{Kind: castore.KindFile, Executable: st.Mode()&0o100 != 0}
	const small = 1 << 20
	if st.Size() <= small {
		data, err := os.ReadFile(path)
		if err != nil {
			return n, err
		}
		n.Size = uint64(len(data))
		n.Digest, err = store.PutBlob(ctx, data)
		return n, err
	}
	f, err := os.Open(path)
	if err != nil {
		return n, err
	}
	defer func() { _ = f.Close() }()
	w, err := store.Create(ctx)
	if err != nil {
		return n, err
	}
	defer func() { _ = w.Abort() }()
	if _, err := io.Copy(w, f); err != nil {
		return n, err
	}
	n.Digest, n.Size, err = w.Commit()
	return n, err
}

func importDirectory(ctx context.Context, store castore.Store, path string) (castore.Node, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return castore.Node{}, err
	}
	dir := &castore.Directory{}
	for _, e := range entries {
		n, err := Import(ctx, store, filepath.Join(path, e.Name()))
		if err != nil {
			return castore.Node{}, err
		}
		dir.Entries = append(dir.Entries, castore.Entry{Name: e.Name(), Node: n})
	}
	sortEntries(dir)
	d, err := store.PutDirectory(ctx, dir)
	return castore.Node{Kind: castore.KindDirectory, Digest: d, Size: dir.Size()}, err
}

func sortEntries(d *castore.Directory) {
	sort.Slice(d.Entries, func(i, j int) bool { return d.Entries[i].Name < d.Entries[j].Name })
}
