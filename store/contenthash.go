package store

import (
	"context"
	"errors"
	"io"
	"sort"
	"strconv"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/store/refscan"
	"github.com/tvixd/tvixd/storepath"
)

// errNotFlat is about contents that are no plain file though the method needs one.
var errNotFlat = errors.New("should be a non-executable regular file since recursive hashing is not enabled (outputHashMode=flat)")

// ContentHash returns the hash that a content address of in has by method and
// algo. It reads the contents unless the NAR hash says it already.
func (s *Store) ContentHash(ctx context.Context, in *Ingested, method storepath.Method, algo nixhash.Algo) (nixhash.Hash, error) {
	if method == storepath.NAR && algo == nixhash.SHA256 {
		return in.NarHash, nil
	}
	h, _, err := s.contentHash(ctx, in.Root, method, algo, storepath.Path{})
	return h, err
}

// HashNode returns the hash that a content address of a node has by method and
// algo, with the hash part of self, if that is not zero, taken as zeros.
func (s *Store) HashNode(
	ctx context.Context,
	node castore.Node,
	method storepath.Method,
	algo nixhash.Algo,
	self storepath.Path,
) (nixhash.Hash, error) {
	h, _, err := s.contentHash(ctx, node, method, algo, self)
	return h, err
}

// contentHash also returns the hash as older versions of Nix compute it, see
// refscan.HashModulo.
func (s *Store) contentHash(
	ctx context.Context,
	node castore.Node,
	method storepath.Method,
	algo nixhash.Algo,
	self storepath.Path,
) (sum, legacy nixhash.Hash, err error) {
	if method == storepath.Git {
		sum, err = s.gitHash(ctx, node, algo)
		return sum, sum, err
	}
	write := func(w io.Writer) error { return s.WriteNAR(ctx, node, w) }
	if method != storepath.NAR {
		if node.Kind != castore.KindFile || node.Executable {
			return sum, legacy, errNotFlat
		}
		write = func(w io.Writer) error { return s.writeBlob(ctx, node, w) }
	}
	if self.IsZero() {
		h := algo.New()
		if err := write(h); err != nil {
			return sum, legacy, err
		}
		sum = nixhash.Finish(algo, h)
		return sum, sum, nil
	}
	h := refscan.NewHashModulo(algo, self)
	if err := write(h); err != nil {
		return sum, legacy, err
	}
	sum, legacy = h.Sum()
	return sum, legacy, nil
}

// writeBlob writes the contents of a file.
func (s *Store) writeBlob(ctx context.Context, node castore.Node, w io.Writer) error {
	blob, err := s.castore.Open(ctx, node.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	if err := checkSize(node, blob.Size()); err != nil {
		return err
	}
	_, err = blob.WriteTo(w)
	return err
}

// Modes of git's tree entries.
const (
	gitFile       = "100644"
	gitExecutable = "100755"
	gitSymlink    = "120000"
	gitDirectory  = "40000"
)

// gitHash returns git's object name of a node: of a blob for files and links,
// of a tree for directories.
func (s *Store) gitHash(ctx context.Context, node castore.Node, algo nixhash.Algo) (nixhash.Hash, error) {
	h := algo.New()
	switch node.Kind {
	case castore.KindFile:
		io.WriteString(h, "blob "+strconv.FormatUint(node.Size, 10)+"\x00")
		if err := s.writeBlob(ctx, node, h); err != nil {
			return nixhash.Hash{}, err
		}
	case castore.KindSymlink:
		io.WriteString(h, "blob "+strconv.Itoa(len(node.Target))+"\x00"+node.Target)
	case castore.KindDirectory:
		tree, err := s.gitTree(ctx, node, algo)
		if err != nil {
			return nixhash.Hash{}, err
		}
		io.WriteString(h, "tree "+strconv.Itoa(len(tree))+"\x00")
		h.Write(tree)
	}
	return nixhash.Finish(algo, h), nil
}

// gitTree returns git's encoding of a directory.
func (s *Store) gitTree(ctx context.Context, node castore.Node, algo nixhash.Algo) ([]byte, error) {
	dir, err := s.castore.GetDirectory(ctx, node.Digest)
	if err != nil {
		return nil, err
	}
	// Git sorts a directory as if its name ended in a slash.
	key := func(e castore.Entry) string {
		if e.Node.Kind == castore.KindDirectory {
			return e.Name + "/"
		}
		return e.Name
	}
	sort.Slice(dir.Entries, func(i, j int) bool { return key(dir.Entries[i]) < key(dir.Entries[j]) })
	var tree []byte
	for _, e := range dir.Entries {
		h, err := s.gitHash(ctx, e.Node, algo)
		if err != nil {
			return nil, err
		}
		tree = append(tree, gitMode(e.Node)...)
		tree = append(tree, ' ')
		tree = append(tree, e.Name...)
		tree = append(tree, 0)
		tree = append(tree, h.Bytes()...)
	}
	return tree, nil
}

func gitMode(n castore.Node) string {
	switch {
	case n.Kind == castore.KindDirectory:
		return gitDirectory
	case n.Kind == castore.KindSymlink:
		return gitSymlink
	case n.Executable:
		return gitExecutable
	}
	return gitFile
}
