package disk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tvixd/tvixd/castore"
)

// marker finds everything that can be reached from the live roots.
type marker struct {
	store *Store

	mu   sync.Mutex
	cond *sync.Cond
	// dirs are the directories that were or will be walked, files the blobs
	// and chunks. They are kept apart: a file may have the digest of a
	// directory, and marking the one does not walk the other. Guarded by mu.
	dirs, files *digestSet
	todo        []castore.Digest // directories to walk; guarded by mu
	walking     int              // directories being walked; guarded by mu
	stopped     bool             // guarded by mu
	damaged     uint64           // guarded by mu
}

func newMarker(s *Store) *marker {
	m := &marker{store: s, dirs: newDigestSet(), files: newDigestSet()}
	m.cond = sync.NewCond(&m.mu)
	return m
}

// live tells whether an object was reached.
func (m *marker) live(d castore.Digest) bool { return m.files.has(d) || m.dirs.has(d) }

// add marks a node. The caller holds mu.
func (m *marker) add(n *castore.Node) {
	switch n.Kind {
	case castore.KindFile:
		m.files.add(n.Digest)
	case castore.KindDirectory:
		if m.dirs.add(n.Digest) {
			m.todo = append(m.todo, n.Digest)
			m.cond.Signal()
		}
	}
}

// mark walks from the roots, and from the directories that are held. A directory
// that is missing or damaged is counted; what only it refers to cannot be found.
func (m *marker) mark(ctx context.Context, live castore.LiveSet) error {
	for n, err := range live.Roots(ctx) {
		if err != nil {
			return fmt.Errorf("live roots: %w", err)
		}
		m.mu.Lock()
		m.add(&n)
		m.mu.Unlock()
	}
	m.mu.Lock()
	for d := range m.store.holds.Directories() {
		m.add(&castore.Node{Kind: castore.KindDirectory, Digest: d})
	}
	m.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	for range m.store.opts.Workers {
		g.Go(func() error {
			err := m.walk(ctx)
			if err != nil {
				m.mu.Lock()
				m.stopped = true
				m.cond.Broadcast()
				m.mu.Unlock()
			}
			return err
		})
	}
	return g.Wait()
}

// walk takes directories until none is left.
func (m *marker) walk(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		for len(m.todo) == 0 && m.walking > 0 && !m.stopped {
			m.cond.Wait()
		}
		if len(m.todo) == 0 || m.stopped {
			return nil
		}
		d := m.todo[len(m.todo)-1]
		m.todo = m.todo[:len(m.todo)-1]
		m.walking++
		m.mu.Unlock()
		dir, err := m.store.getDirectory(ctx, d)
		m.mu.Lock()
		m.walking--
		switch {
		case err == nil:
			for i := range dir.Entries {
				m.add(&dir.Entries[i].Node)
			}
		case errors.Is(err, castore.ErrNotFound), errors.Is(err, castore.ErrCorrupt):
			m.damaged++
			m.store.log.Warn("live directory cannot be read", "err", err)
		default:
			return err
		}
		if len(m.todo) == 0 && m.walking == 0 {
			m.cond.Broadcast()
		}
	}
}

// markChunks marks the chunks of a large blob.
func (m *marker) markChunks(ctx context.Context, d castore.Digest) error {
	loc, data, err := m.store.load(ctx, "blob", d, nil)
	if errors.Is(err, castore.ErrNotFound) || errors.Is(err, castore.ErrCorrupt) {
		m.damaged++
		m.store.log.Warn("live blob cannot be read", "err", err)
		return nil
	}
	if err != nil || loc.kind != KindRecipe {
		return err
	}
	r := recipe(data)
	for i := range r.chunks() {
		m.files.add(r.digest(i))
	}
	return nil
}
