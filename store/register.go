package store

import (
	"context"
	"fmt"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Register makes paths valid whose contents are in the castore, all of them
// or, if it fails, none. References must be valid or among infos; derivations
// are read and checked, and their outputs noted. infos may be in any order.
//
// On return the contents are durable, the metadata is committed, and the
// listeners were told. Paths that are valid already stay as they are, see
// pathinfo.Registry.
func (s *Store) Register(ctx context.Context, infos []pathinfo.PathInfo) error {
	return s.register(ctx, infos, s.infos.Register)
}

// Replace is Register for paths whose contents were mended: valid ones take
// over the new metadata and contents.
func (s *Store) Replace(ctx context.Context, infos []pathinfo.PathInfo) error {
	return s.register(ctx, infos, s.infos.Replace)
}

func (s *Store) register(
	ctx context.Context,
	infos []pathinfo.PathInfo,
	commit func(context.Context, []pathinfo.PathInfo) error,
) error {
	if len(infos) == 0 {
		return nil
	}
	// The references must not vanish between now and the commit.
	lease := s.NewLease()
	defer lease.Release()
	paths := make([]storepath.Path, len(infos))
	for i := range infos {
		paths[i] = infos[i].Path
		lease.Add(infos[i].References...)
	}
	lease.Add(paths...)

	infos, err := s.withOutputs(ctx, infos)
	if err != nil {
		return err
	}
	if err := s.castore.Sync(ctx); err != nil {
		return fmt.Errorf("make contents durable: %w", err)
	}
	if err := commit(ctx, infos); err != nil {
		return s.explain(err)
	}
	s.listeners.added(storepath.SortUnique(paths))
	return nil
}

// withOutputs checks the derivations among infos and returns infos with their
// output paths filled in.
func (s *Store) withOutputs(ctx context.Context, infos []pathinfo.PathInfo) ([]pathinfo.PathInfo, error) {
	batch := make(map[storepath.Path]castore.Node)
	for i := range infos {
		if infos[i].Path.IsDerivation() {
			batch[infos[i].Path] = infos[i].Root
		}
	}
	if len(batch) == 0 {
		return infos, nil
	}
	// Inputs may be in this batch, not valid yet.
	resolve := func(p storepath.Path) (*derivation.Derivation, error) {
		if root, ok := batch[p]; ok {
			return s.parseDerivation(ctx, p, root)
		}
		return s.ReadDerivation(ctx, p)
	}
	infos = append([]pathinfo.PathInfo(nil), infos...)
	for i := range infos {
		info := &infos[i]
		if !info.Path.IsDerivation() {
			continue
		}
		d, err := s.parseDerivation(ctx, info.Path, info.Root)
		if err != nil {
			return nil, err
		}
		if err := s.hasher.Check(d, info.Path, resolve); err != nil {
			return nil, err
		}
		info.Outputs = make(map[string]storepath.Path, len(d.Outputs))
		for name, o := range d.Outputs {
			if o.Kind.KnowsPaths() {
				info.Outputs[name] = o.Path
			}
		}
	}
	return infos, nil
}
