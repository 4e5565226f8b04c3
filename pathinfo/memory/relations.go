package memory

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Graph implements pathinfo.Relations.
func (s *Service) Graph(ctx context.Context) ([]pathinfo.PathRefs, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	graph := make([]pathinfo.PathRefs, 0, len(s.paths))
	for _, p := range sortedKeys(s.paths) {
		r := s.paths[p]
		graph = append(graph, pathinfo.PathRefs{
			Path:             p,
			References:       r.info.References,
			Deriver:          r.info.Deriver,
			Outputs:          slices.SortedFunc(maps.Values(r.outputs), storepath.Path.Compare),
			NarSize:          r.info.NarSize,
			RegistrationTime: r.info.RegistrationTime,
			LastUse:          r.lastUse,
		})
	}
	return graph, nil
}

// References implements pathinfo.Relations.
func (s *Service) References(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	refs := make([][]storepath.Path, len(paths))
	for i, p := range paths {
		if r, ok := s.paths[p]; ok {
			refs[i] = slices.Clone(r.info.References)
		}
	}
	return refs, nil
}

// Referrers implements pathinfo.Relations.
func (s *Service) Referrers(ctx context.Context, path storepath.Path) ([]storepath.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.paths[path]
	if !ok {
		return nil, nil
	}
	return sortedKeys(r.referrers), nil
}

// Closure implements pathinfo.Relations.
func (s *Service) Closure(ctx context.Context, paths []storepath.Path, reverse bool) ([]storepath.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	seen := make(map[storepath.Path]struct{})
	var stack []storepath.Path
	visit := func(p storepath.Path) {
		if _, ok := seen[p]; ok {
			return
		}
		if _, ok := s.paths[p]; ok {
			seen[p] = struct{}{}
			stack = append(stack, p)
		}
	}
	for _, p := range paths {
		visit(p)
	}
	for len(stack) > 0 {
		r := s.paths[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		if reverse {
			for p := range r.referrers {
				visit(p)
			}
		} else {
			for _, p := range r.info.References {
				visit(p)
			}
		}
	}
	return sortedKeys(seen), nil
}

// Derivers implements pathinfo.Relations.
func (s *Service) Derivers(ctx context.Context, output storepath.Path) ([]storepath.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return sortedKeys(s.derivers[output]), nil
}

// DrvOutputs implements pathinfo.Relations.
func (s *Service) DrvOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.paths[drv]
	if !ok {
		return nil, pathinfo.NotFound(drv)
	}
	outputs := make(map[string]storepath.Path, len(r.outputs))
	maps.Copy(outputs, r.outputs)
	return outputs, nil
}

// Roots implements pathinfo.Relations.
func (s *Service) Roots(ctx context.Context) iter.Seq2[castore.Node, error] {
	return func(yield func(castore.Node, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(castore.Node{}, err)
			return
		}
		s.mu.RLock()
		roots := make([]castore.Node, 0, len(s.paths))
		for _, r := range s.paths {
			roots = append(roots, r.info.Root)
		}
		s.mu.RUnlock()
		for _, n := range roots {
			if !yield(n, nil) {
				return
			}
		}
	}
}

// Realisation implements pathinfo.Realisations.
func (s *Service) Realisation(ctx context.Context, id string) (*pathinfo.Realisation, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.realisations[id]
	if !ok {
		return nil, fmt.Errorf("realisation %q: %w", id, pathinfo.ErrNotFound)
	}
	return r.Clone(), nil
}

// PutRealisation implements pathinfo.Realisations.
func (s *Service) PutRealisation(ctx context.Context, r pathinfo.Realisation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.paths[r.OutPath]; !ok {
		return &pathinfo.InvalidReferenceError{Path: r.OutPath, Reference: r.OutPath}
	}
	if err := pathinfo.CheckSignatures(r.Signatures); err != nil {
		return err
	}
	old, ok := s.realisations[r.ID]
	if ok && old.OutPath != r.OutPath {
		return &pathinfo.RealisationConflictError{ID: r.ID, Have: old.OutPath, Want: r.OutPath}
	}
	for id, path := range r.DependentRealisations {
		if id == r.ID && path == r.OutPath {
			continue
		}
		dep, ok := s.realisations[id]
		if !ok {
			return &pathinfo.RealisationConflictError{ID: r.ID, Dependency: id, Want: path}
		}
		if dep.OutPath != path {
			return &pathinfo.RealisationConflictError{ID: r.ID, Dependency: id, Have: dep.OutPath, Want: path}
		}
	}
	kept := r.Clone()
	if kept.DependentRealisations == nil {
		kept.DependentRealisations = map[string]storepath.Path{}
	}
	if old != nil {
		kept.Signatures = pathinfo.MergeSignatures(old.Signatures, kept.Signatures)
		maps.Copy(kept.DependentRealisations, old.DependentRealisations)
	} else {
		kept.Signatures = pathinfo.MergeSignatures(kept.Signatures, nil)
	}
	s.realisations[r.ID] = kept
	return nil
}

func notFoundDigest(digest [20]byte) error {
	return fmt.Errorf("path with digest %s: %w", hex.EncodeToString(digest[:]), pathinfo.ErrNotFound)
}
