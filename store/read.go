package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// maxReadFile bounds what ReadFile returns. The largest derivations have some
// megabytes.
const maxReadFile = 64 << 20

// Root returns the contents of a valid path; the error wraps
// pathinfo.ErrNotFound if it is not valid.
func (s *Store) Root(ctx context.Context, path storepath.Path) (castore.Node, error) {
	root, err := s.infos.Root(ctx, path)
	if errors.Is(err, pathinfo.ErrNotFound) {
		return castore.Node{}, s.notValid(path)
	}
	return root, err
}

// Lookup returns the node at sub, a relative slash-separated path, within a
// valid path; "" is the root. Symlinks are not followed. The error wraps
// fs.ErrNotExist if there is no such node, and pathinfo.ErrNotFound if the
// path is not valid.
func (s *Store) Lookup(ctx context.Context, path storepath.Path, sub string) (castore.Node, error) {
	node, err := s.Root(ctx, path)
	if err != nil {
		return castore.Node{}, err
	}
	for name := range strings.SplitSeq(sub, "/") {
		if name == "" {
			continue
		}
		missing := s.errorf(fs.ErrNotExist, "path '%s/%s' does not exist", s.dir.Join(path), sub)
		if node.Kind != castore.KindDirectory {
			return castore.Node{}, missing
		}
		dir, err := s.castore.GetDirectory(ctx, node.Digest)
		if err != nil {
			return castore.Node{}, fmt.Errorf("read directory in '%s': %w", s.dir.Join(path), err)
		}
		var ok bool
		if node, ok = dir.Lookup(name); !ok {
			return castore.Node{}, missing
		}
	}
	return node, nil
}

// ReadFile returns the contents of a file of at most 64 MiB at sub within a
// valid path, see Lookup. A larger one gives an error that wraps ErrTooLarge.
func (s *Store) ReadFile(ctx context.Context, path storepath.Path, sub string) ([]byte, error) {
	node, err := s.Lookup(ctx, path, sub)
	if err != nil {
		return nil, err
	}
	data, err := s.readNode(ctx, node)
	if err != nil {
		return nil, fmt.Errorf("read file '%s': %w", strings.TrimSuffix(s.dir.Join(path)+"/"+sub, "/"), err)
	}
	return data, nil
}

var errNotRegular = errors.New("not a regular file")

func (s *Store) readNode(ctx context.Context, node castore.Node) ([]byte, error) {
	if node.Kind != castore.KindFile {
		return nil, errNotRegular
	}
	if node.Size > maxReadFile {
		return nil, fmt.Errorf("%w: %d bytes, limit is %d", ErrTooLarge, node.Size, uint64(maxReadFile))
	}
	data := make([]byte, node.Size)
	return data, s.readBlob(ctx, node, data)
}

// readBlob fills data with the contents of a file of just that size.
func (s *Store) readBlob(ctx context.Context, node castore.Node, data []byte) error {
	blob, err := s.castore.Open(ctx, node.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	if err := checkSize(node, blob.Size()); err != nil {
		return err
	}
	if len(data) == 0 {
		return nil
	}
	if n, err := blob.ReadAt(data, 0); n < len(data) {
		return err
	}
	return nil
}

// ReadDerivation reads and parses a valid derivation.
func (s *Store) ReadDerivation(ctx context.Context, path storepath.Path) (*derivation.Derivation, error) {
	root, err := s.Root(ctx, path)
	if err != nil {
		return nil, err
	}
	return s.parseDerivation(ctx, path, root)
}

func (s *Store) parseDerivation(ctx context.Context, path storepath.Path, root castore.Node) (*derivation.Derivation, error) {
	name, err := derivation.NameFromPath(path)
	if err != nil {
		return nil, err
	}
	text, err := s.readNode(ctx, root)
	if err != nil {
		return nil, fmt.Errorf("read derivation '%s': %w", s.dir.Join(path), err)
	}
	return derivation.Parse(s.dir, name, text)
}

// Roots is the store as a folder of its valid paths: what a mount shows.
type Roots struct{ store *Store }

// Roots returns the store's root folder.
func (s *Store) Roots() Roots { return Roots{s} }

// Lookup returns the contents of the path with this base name. The error
// wraps castore.ErrNotFound if there is no such path.
func (r Roots) Lookup(ctx context.Context, name string) (castore.Node, error) {
	path, err := storepath.ParseBase(name)
	if err != nil {
		return castore.Node{}, fmt.Errorf("look up %q: %w", name, castore.ErrNotFound)
	}
	root, err := r.store.infos.Root(ctx, path)
	if errors.Is(err, pathinfo.ErrNotFound) {
		return castore.Node{}, fmt.Errorf("look up %q: %w", name, castore.ErrNotFound)
	}
	return root, err
}

// List yields all valid paths with their contents, sorted by name.
func (r Roots) List(ctx context.Context) iter.Seq2[castore.Entry, error] {
	return func(yield func(castore.Entry, error) bool) {
		for info, err := range r.store.infos.All(ctx) {
			if err != nil {
				yield(castore.Entry{}, err)
				return
			}
			if !yield(castore.Entry{Name: info.Path.Base(), Node: info.Root}, nil) {
				return
			}
		}
	}
}
