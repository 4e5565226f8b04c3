// Package damage finds out which live roots have lost something.
package damage

import (
	"context"
	"errors"
	"fmt"

	"github.com/tvixd/tvixd/castore"
)

// Source reads the objects of a store.
type Source interface {
	GetDirectory(ctx context.Context, d castore.Digest) (*castore.Directory, error)
	// CheckBlob returns an error that wraps [castore.ErrNotFound] or
	// [castore.ErrCorrupt] if a blob, or one of its chunks, is not there.
	CheckBlob(ctx context.Context, d castore.Digest) error
}

// Limit is the number of damaged objects after which Find ends.
const Limit = 20

// Find walks everything below the live roots and returns what is missing or
// damaged, each with the first root that needs it. Blobs are only looked up.
func Find(ctx context.Context, s Source, live castore.LiveSet) ([]castore.DamagedObject, error) {
	f := &finder{source: s, seen: make(map[key]struct{})}
	for root, err := range live.Roots(ctx) {
		if err != nil {
			return nil, fmt.Errorf("live roots: %w", err)
		}
		if err := f.walk(ctx, root); err != nil {
			return nil, err
		}
		if len(f.found) >= Limit {
			break
		}
	}
	return f.found, nil
}

// key tells a directory from a blob with the same digest.
type key struct {
	digest castore.Digest
	kind   castore.NodeKind
}

type finder struct {
	source Source
	seen   map[key]struct{}
	found  []castore.DamagedObject
}

func (f *finder) walk(ctx context.Context, root castore.Node) error {
	todo := []castore.Node{root}
	for len(todo) > 0 && len(f.found) < Limit {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		k := key{n.Digest, n.Kind}
		if _, ok := f.seen[k]; ok || n.Kind == castore.KindSymlink || n.Digest == castore.EmptyDigest {
			continue
		}
		f.seen[k] = struct{}{}
		var err error
		if n.Kind == castore.KindFile {
			err = f.source.CheckBlob(ctx, n.Digest)
		} else {
			var dir *castore.Directory
			if dir, err = f.source.GetDirectory(ctx, n.Digest); err == nil {
				for i := range dir.Entries {
					todo = append(todo, dir.Entries[i].Node)
				}
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, castore.ErrNotFound), errors.Is(err, castore.ErrCorrupt):
			f.found = append(f.found, castore.DamagedObject{Root: root, Err: err})
		default:
			return err
		}
	}
	return ctx.Err()
}
