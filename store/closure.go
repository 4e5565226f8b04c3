package store

import (
	"context"
	"maps"

	"github.com/tvixd/tvixd/storepath"
)

// ClosureOptions says what Closure follows besides references.
type ClosureOptions struct {
	// Reverse follows referrers in place of references.
	Reverse bool

	// IncludeOutputs follows a derivation to its valid outputs; with Reverse,
	// an output to the valid derivations that have it.
	IncludeOutputs bool

	// IncludeDerivers follows a path to its deriver if that is valid; with
	// Reverse, a derivation to its valid outputs.
	IncludeDerivers bool
}

// Closure returns paths and all that they reach, sorted. A path that is not
// valid gives an error that wraps pathinfo.ErrNotFound.
func (s *Store) Closure(ctx context.Context, paths []storepath.Path, o ClosureOptions) ([]storepath.Path, error) {
	paths = storepath.SortUnique(append([]storepath.Path(nil), paths...))
	valid, err := s.infos.Valid(ctx, paths)
	if err != nil {
		return nil, err
	}
	if bad := without(paths, valid); len(bad) > 0 {
		return nil, s.notValid(bad[0])
	}
	if !o.IncludeOutputs && !o.IncludeDerivers {
		return s.infos.Closure(ctx, paths, o.Reverse)
	}
	return s.graphClosure(ctx, paths, o)
}

// graphClosure works on the whole graph in memory.
func (s *Store) graphClosure(ctx context.Context, paths []storepath.Path, o ClosureOptions) ([]storepath.Path, error) {
	graph, err := s.infos.Graph(ctx)
	if err != nil {
		return nil, err
	}
	valid := make(map[storepath.Path]struct{}, len(graph))
	for i := range graph {
		valid[graph[i].Path] = struct{}{}
	}
	edges := make(map[storepath.Path][]storepath.Path, len(graph))
	add := func(from, to storepath.Path) {
		if o.Reverse {
			from, to = to, from
		}
		_, fromValid := valid[from]
		_, toValid := valid[to]
		if fromValid && toValid {
			edges[from] = append(edges[from], to)
		}
	}
	for i := range graph {
		n := &graph[i]
		for _, r := range n.References {
			add(n.Path, r)
		}
		if o.IncludeOutputs {
			for _, out := range n.Outputs {
				add(n.Path, out)
			}
		}
		switch {
		case !o.IncludeDerivers:
		case o.Reverse:
			// Reversed below by add: from the derivation to its outputs.
			for _, out := range n.Outputs {
				add(out, n.Path)
			}
		case !n.Deriver.IsZero():
			add(n.Path, n.Deriver)
		}
	}

	seen := make(map[storepath.Path]struct{}, len(paths))
	stack := make([]storepath.Path, 0, len(paths))
	for _, p := range paths {
		if _, ok := valid[p]; !ok {
			return nil, s.notValid(p) // deleted since it was looked up
		}
		seen[p] = struct{}{}
		stack = append(stack, p)
	}
	for len(stack) > 0 {
		p := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, q := range edges[p] {
			if _, ok := seen[q]; !ok {
				seen[q] = struct{}{}
				stack = append(stack, q)
			}
		}
	}
	return sortedPaths(seen), nil
}

func sortedPaths(set map[storepath.Path]struct{}) []storepath.Path {
	paths := make([]storepath.Path, 0, len(set))
	for p := range maps.Keys(set) {
		paths = append(paths, p)
	}
	storepath.Sort(paths)
	return paths
}
