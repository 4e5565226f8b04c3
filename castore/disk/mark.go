package disk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/internal/damage"
)

// marker finds everything that can be reached from the live roots.
type marker struct {
	store *Store

	mu   sync.Mutex
	cond *sync.Cond
	// What the live roots reach must be there; held is what only holds keep,
	// of which some may be on its way.
	roots, held reach
	walkingHeld bool             // roots are done; guarded by mu
	todo        []castore.Digest // directories to walk; guarded by mu
	walking     int              // directories being walked; guarded by mu
	stopped     bool             // guarded by mu
	unread      []error          // of directories and recipes that cannot be read, some; guarded by mu
}

// reach is a set of marked objects: directories that were or will be walked, and
// blobs and chunks. They are kept apart: a file may have the digest of a
// directory, and marking the one does not walk the other. Guarded by marker.mu
// while directories are walked.
type reach struct{ dirs, files *digestSet }

func newReach() reach { return reach{newDigestSet(), newDigestSet()} }

func (r *reach) has(d castore.Digest) bool { return r.files.has(d) || r.dirs.has(d) }

func newMarker(s *Store) *marker {
	m := &marker{store: s, roots: newReach(), held: newReach()}
	m.cond = sync.NewCond(&m.mu)
	return m
}

// live tells whether an object was reached.
func (m *marker) live(d castore.Digest) bool { return m.roots.has(d) || m.held.has(d) }

// add marks a node. The caller holds mu.
func (m *marker) add(n *castore.Node) {
	if n.Digest == castore.EmptyDigest {
		return // it is nowhere, and everywhere
	}
	switch n.Kind {
	case castore.KindFile:
		if !m.walkingHeld {
			m.roots.files.add(n.Digest)
		} else if !m.roots.files.has(n.Digest) {
			m.held.files.add(n.Digest)
		}
	case castore.KindDirectory:
		dirs := m.roots.dirs
		if m.walkingHeld {
			if dirs.has(n.Digest) {
				return
			}
			dirs = m.held.dirs
		}
		if dirs.add(n.Digest) {
			m.todo = append(m.todo, n.Digest)
			m.cond.Signal()
		}
	}
}

// mark walks from the roots, and then from the directories that are held.
// Directories that are missing or damaged are noted in unread.
func (m *marker) mark(ctx context.Context, live castore.LiveSet) error {
	for n, err := range live.Roots(ctx) {
		if err != nil {
			return fmt.Errorf("live roots: %w", err)
		}
		m.mu.Lock()
		m.add(&n)
		m.mu.Unlock()
	}
	if err := m.walkAll(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.walkingHeld = true
	for d := range m.store.holds.Directories() {
		m.add(&castore.Node{Kind: castore.KindDirectory, Digest: d})
	}
	m.mu.Unlock()
	return m.walkAll(ctx)
}

func (m *marker) walkAll(ctx context.Context) error {
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
		case m.walkingHeld && errors.Is(err, castore.ErrNotFound):
			// It is held from before its put has stored it, or failed.
		case errors.Is(err, castore.ErrNotFound), errors.Is(err, castore.ErrCorrupt):
			m.cannotRead(err)
		default:
			return err
		}
		if len(m.todo) == 0 && m.walking == 0 {
			m.cond.Broadcast()
		}
	}
}

// cannotRead notes something alive that is missing or damaged. The caller holds
// mu, or is alone.
func (m *marker) cannotRead(err error) {
	if len(m.unread) < damage.Limit {
		m.unread = append(m.unread, err)
	}
}

// markChunks marks the chunks of a large blob. It is for one goroutine, after the
// walk.
func (m *marker) markChunks(ctx context.Context, d castore.Digest) error {
	files := m.held.files
	if m.roots.has(d) {
		files = m.roots.files
	}
	loc, data, err := m.store.load(ctx, "blob", d, nil)
	if errors.Is(err, castore.ErrNotFound) || errors.Is(err, castore.ErrCorrupt) {
		if files == m.roots.files {
			m.cannotRead(err)
		}
		return nil // who holds it is about to put it, and its chunks
	}
	if err != nil || loc.kind != KindRecipe {
		return err
	}
	r := recipe(data)
	for i := range r.chunks() {
		files.add(r.digest(i))
	}
	return nil
}

// checkBlob looks a blob up, and the chunks of a large one.
func (s *Store) checkBlob(ctx context.Context, d castore.Digest) error {
	loc, found, err := s.find(ctx, d)
	if err != nil {
		return err
	}
	if !found {
		return castore.NotFound("blob", d)
	}
	if loc.kind != KindRecipe {
		return nil
	}
	loc, data, err := s.loadFrom(ctx, loc, "blob", d, nil)
	if err != nil || loc.kind != KindRecipe {
		return err
	}
	r := recipe(data)
	for i := range r.chunks() {
		_, found, err := s.find(ctx, r.digest(i))
		if err != nil {
			return err
		}
		if !found {
			return castore.Corrupt("blob", d, castore.NotFound("chunk", r.digest(i)))
		}
	}
	return nil
}

// damageSource is what the search for damage reads.
type damageSource struct{ *Store }

func (s damageSource) GetDirectory(ctx context.Context, d castore.Digest) (*castore.Directory, error) {
	return s.getDirectory(ctx, d)
}

func (s damageSource) CheckBlob(ctx context.Context, d castore.Digest) error {
	return s.checkBlob(ctx, d)
}
