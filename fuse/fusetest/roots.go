package fusetest

import (
	"context"
	"iter"
	"maps"
	"sync"

	"github.com/tvixd/tvixd/castore"
)

// Roots is a changeable set of root entries in memory.
type Roots struct {
	mu    sync.RWMutex
	nodes map[string]castore.Node // guarded by mu
}

// NewRoots returns a set that holds a copy of the nodes.
func NewRoots(nodes map[string]castore.Node) *Roots {
	r := &Roots{nodes: map[string]castore.Node{}}
	maps.Copy(r.nodes, nodes)
	return r
}

// Set adds or replaces an entry.
func (r *Roots) Set(name string, n castore.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[name] = n
}

// Delete removes an entry.
func (r *Roots) Delete(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nodes, name)
}

// Lookup returns an entry; the error for one that is missing is
// [castore.ErrNotFound].
func (r *Roots) Lookup(_ context.Context, name string) (castore.Node, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n, ok := r.nodes[name]
	if !ok {
		return castore.Node{}, castore.ErrNotFound
	}
	return n, nil
}

// List iterates over a snapshot of the entries.
func (r *Roots) List(context.Context) iter.Seq2[castore.Entry, error] {
	r.mu.RLock()
	defer r.mu.RUnlock()
	snapshot := maps.Clone(r.nodes)
	return func(yield func(castore.Entry, error) bool) {
		for name, n := range snapshot {
			if !yield(castore.Entry{Name: name, Node: n}, nil) {
				return
			}
		}
	}
}
