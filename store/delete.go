package store

import (
	"context"
	"errors"
	"slices"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Delete makes paths invalid, except for those that must stay: the leased
// ones, those that a path outside of paths refers to, and all that these
// reach. It returns the paths that are no longer valid for what it did,
// sorted. Paths that are not valid are passed over.
//
// Leases are looked at when the deletion can no longer be stopped: whoever
// leases a path later waits until Delete has ended, and then finds the path
// not valid. On return the change is committed and the listeners were told.
// The space of the contents comes back with the next sweep of the castore.
func (s *Store) Delete(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	valid, err := s.infos.Valid(ctx, paths)
	if err != nil || len(valid) == 0 {
		return nil, err
	}
	valid = storepath.SortUnique(valid)

	leased := s.leases.startDelete(valid)
	claimed := without(valid, leased)
	defer s.leases.endDelete(claimed)

	d, err := s.newDeletion(ctx, claimed)
	if err != nil {
		return nil, err
	}
	if err := d.keepReachable(ctx, leased); err != nil {
		return nil, err
	}
	for len(d.refs) > 0 {
		doomed := d.paths()
		err := s.infos.Delete(ctx, doomed)
		var inUse *pathinfo.InUseError
		if errors.As(err, &inUse) && d.has(inUse.Path) {
			// A path that was registered since the caller looked.
			d.keep(inUse.Path)
			continue
		}
		if err != nil {
			return nil, err
		}
		s.listeners.removed(doomed)
		return doomed, nil
	}
	return nil, nil
}

// DeleteUnreferenced deletes one path, or fails with nix-daemon's message, if
// other valid paths refer to it. It reports false if the path is leased.
func (s *Store) DeleteUnreferenced(ctx context.Context, path storepath.Path) (bool, error) {
	referrers, err := s.infos.Referrers(ctx, path)
	if err != nil {
		return false, err
	}
	referrers = without(referrers, []storepath.Path{path})
	if len(referrers) > 0 {
		return false, s.errorf(&pathinfo.InUseError{Path: path, Referrer: referrers[0]},
			"cannot delete path '%s' because it is in use by %s", s.dir.Join(path), s.quoteList(referrers))
	}
	gone, err := s.Delete(ctx, []storepath.Path{path})
	return len(gone) == 1, err
}

// deletion is the set of paths that are still to be deleted, with their
// references.
type deletion struct {
	store *Store
	refs  map[storepath.Path][]storepath.Path
}

func (s *Store) newDeletion(ctx context.Context, paths []storepath.Path) (*deletion, error) {
	refs, err := s.infos.References(ctx, paths)
	if err != nil {
		return nil, err
	}
	d := &deletion{store: s, refs: make(map[storepath.Path][]storepath.Path, len(paths))}
	for i, p := range paths {
		d.refs[p] = refs[i]
	}
	return d, nil
}

func (d *deletion) has(p storepath.Path) bool {
	_, ok := d.refs[p]
	return ok
}

func (d *deletion) paths() []storepath.Path {
	paths := make([]storepath.Path, 0, len(d.refs))
	for p := range d.refs {
		paths = append(paths, p)
	}
	storepath.Sort(paths)
	return paths
}

// keepReachable takes out what paths outside of the deletion refer to.
func (d *deletion) keepReachable(ctx context.Context, from []storepath.Path) error {
	if len(from) == 0 {
		return nil
	}
	refs, err := d.store.infos.References(ctx, from)
	if err != nil {
		return err
	}
	for _, r := range slices.Concat(refs...) {
		d.keep(r)
	}
	return nil
}

// keep takes out p and all that it reaches.
func (d *deletion) keep(p storepath.Path) {
	stack := []storepath.Path{p}
	for len(stack) > 0 {
		p, stack = stack[len(stack)-1], stack[:len(stack)-1]
		if refs, ok := d.refs[p]; ok {
			delete(d.refs, p)
			stack = append(stack, refs...)
		}
	}
}

// without returns the elements of sorted that are not in drop.
func without(sorted, drop []storepath.Path) []storepath.Path {
	if len(drop) == 0 {
		return sorted
	}
	set := make(map[storepath.Path]struct{}, len(drop))
	for _, p := range drop {
		set[p] = struct{}{}
	}
	rest := make([]storepath.Path, 0, len(sorted))
	for _, p := range sorted {
		if _, ok := set[p]; !ok {
			rest = append(rest, p)
		}
	}
	return rest
}
