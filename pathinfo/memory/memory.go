// Package memory keeps path metadata in the memory of the process, for tests
// and for stores that nobody needs to find again.
package memory

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Service is a pathinfo.Service in memory. Use New to make one.
type Service struct {
	now func() time.Time

	mu           sync.RWMutex
	paths        map[storepath.Path]*record                     // guarded by mu
	byDigest     map[[20]byte]storepath.Path                    // guarded by mu
	derivers     map[storepath.Path]map[storepath.Path]struct{} // output -> derivations; guarded by mu
	realisations map[string]*pathinfo.Realisation               // guarded by mu
}

var _ pathinfo.Service = (*Service)(nil)

// record is what is kept of a valid path. Its info is never changed once it
// is in the map, only replaced, so that readers need the lock for the map
// only.
type record struct {
	info      *pathinfo.PathInfo // without Outputs
	outputs   map[string]storepath.Path
	referrers map[storepath.Path]struct{}
	lastUse   time.Time
}

// New returns an empty service.
func New() *Service {
	return &Service{
		now:          time.Now,
		paths:        make(map[storepath.Path]*record),
		byDigest:     make(map[[20]byte]storepath.Path),
		derivers:     make(map[storepath.Path]map[storepath.Path]struct{}),
		realisations: make(map[string]*pathinfo.Realisation),
	}
}

// Get implements pathinfo.Reader.
func (s *Service) Get(ctx context.Context, path storepath.Path) (*pathinfo.PathInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.paths[path]
	if !ok {
		return nil, pathinfo.NotFound(path)
	}
	return r.info.Clone(), nil
}

// GetMany implements pathinfo.Reader.
func (s *Service) GetMany(ctx context.Context, paths []storepath.Path) ([]*pathinfo.PathInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	infos := make([]*pathinfo.PathInfo, len(paths))
	for i, p := range paths {
		if r, ok := s.paths[p]; ok {
			infos[i] = r.info.Clone()
		}
	}
	return infos, nil
}

// GetByHashPart implements pathinfo.Reader.
func (s *Service) GetByHashPart(ctx context.Context, digest [20]byte) (*pathinfo.PathInfo, error) {
	s.mu.RLock()
	path, ok := s.byDigest[digest]
	s.mu.RUnlock()
	if !ok {
		return nil, notFoundDigest(digest)
	}
	return s.Get(ctx, path)
}

// Root implements pathinfo.Reader.
func (s *Service) Root(ctx context.Context, path storepath.Path) (castore.Node, error) {
	if err := ctx.Err(); err != nil {
		return castore.Node{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.paths[path]
	if !ok {
		return castore.Node{}, pathinfo.NotFound(path)
	}
	return r.info.Root, nil
}

// Valid implements pathinfo.Reader.
func (s *Service) Valid(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var valid []storepath.Path
	for _, p := range paths {
		if _, ok := s.paths[p]; ok {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// All implements pathinfo.Reader.
func (s *Service) All(ctx context.Context) iter.Seq2[*pathinfo.PathInfo, error] {
	return func(yield func(*pathinfo.PathInfo, error) bool) {
		paths, err := s.Paths(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, p := range paths {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			s.mu.RLock()
			r, ok := s.paths[p]
			s.mu.RUnlock()
			if ok && !yield(r.info.Clone(), nil) {
				return
			}
		}
	}
}

// Paths implements pathinfo.Reader.
func (s *Service) Paths(ctx context.Context) ([]storepath.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return sortedKeys(s.paths), nil
}

func sortedKeys[V any](m map[storepath.Path]V) []storepath.Path {
	return slices.SortedFunc(maps.Keys(m), storepath.Path.Compare)
}
