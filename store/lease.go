package store

import (
	"sync"

	"github.com/tvixd/tvixd/storepath"
)

// Lease keeps a set of paths from being deleted, valid or not, until it is
// released. A connection has one for all the paths that its client was told
// of, a build has one for its inputs and outputs, and every add has one while
// it runs. Its methods may be called concurrently.
type Lease struct {
	table *leaseTable
	paths map[storepath.Path]struct{} // guarded by table.mu; nil after Release
}

// leaseTable knows which paths are leased and which are being deleted; no path
// is ever both.
type leaseTable struct {
	mu       sync.Mutex
	idle     sync.Cond                   // signalled when deleting shrinks
	counts   map[storepath.Path]int      // the number of leases on a path; guarded by mu
	deleting map[storepath.Path]struct{} // guarded by mu
	heirs    map[*Lease]struct{}         // guarded by mu
}

func (t *leaseTable) init() {
	t.idle.L = &t.mu
	t.counts = make(map[storepath.Path]int)
	t.deleting = make(map[storepath.Path]struct{})
	t.heirs = make(map[*Lease]struct{})
}

// NewLease returns a lease on nothing.
func (s *Store) NewLease() *Lease {
	return &Lease{table: &s.leases, paths: make(map[storepath.Path]struct{})}
}

// Heir returns a lease that takes over the paths of all leases that are
// released during its life. A collector holds one while it looks for roots
// and marks: a client that makes a root and disconnects in between would
// otherwise be seen neither as root nor as lease.
func (s *Store) Heir() *Lease {
	l := s.NewLease()
	t := l.table
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heirs[l] = struct{}{}
	return l
}

// Add leases paths. If one of them is being deleted just now, Add waits until
// that has ended; whether a leased path is valid must be asked afterwards. On
// a released lease Add does nothing.
func (l *Lease) Add(paths ...storepath.Path) {
	t := l.table
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.anyDeleting(paths) {
		t.idle.Wait()
	}
	if l.paths != nil {
		l.add(paths)
	}
}

func (l *Lease) add(paths []storepath.Path) {
	for _, p := range paths {
		if _, ok := l.paths[p]; !ok {
			l.paths[p] = struct{}{}
			l.table.counts[p]++
		}
	}
}

// Has reports whether path is in the lease.
func (l *Lease) Has(path storepath.Path) bool {
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	_, ok := l.paths[path]
	return ok
}

// Release gives up the lease. Further calls do nothing.
func (l *Lease) Release() {
	t := l.table
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.heirs, l)
	for p := range l.paths {
		for h := range t.heirs {
			h.add([]storepath.Path{p})
		}
		if t.counts[p]--; t.counts[p] == 0 {
			delete(t.counts, p)
		}
	}
	l.paths = nil
}

func (t *leaseTable) anyDeleting(paths []storepath.Path) bool {
	if len(t.deleting) == 0 {
		return false
	}
	for _, p := range paths {
		if _, ok := t.deleting[p]; ok {
			return true
		}
	}
	return false
}

// TempRoots returns all leased paths, sorted. They need not be valid.
func (s *Store) TempRoots() []storepath.Path {
	t := &s.leases
	t.mu.Lock()
	paths := make([]storepath.Path, 0, len(t.counts))
	for p := range t.counts {
		paths = append(paths, p)
	}
	t.mu.Unlock()
	storepath.Sort(paths)
	return paths
}

// startDelete marks those of paths as being deleted that are neither leased
// nor being deleted by somebody else, and returns the others.
func (t *leaseTable) startDelete(paths []storepath.Path) (leased []storepath.Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.anyDeleting(paths) {
		t.idle.Wait()
	}
	for _, p := range paths {
		if t.counts[p] > 0 {
			leased = append(leased, p)
		} else {
			t.deleting[p] = struct{}{}
		}
	}
	return leased
}

// endDelete undoes startDelete for paths and lets those go on who wait for them.
func (t *leaseTable) endDelete(paths []storepath.Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range paths {
		delete(t.deleting, p)
	}
	t.idle.Broadcast()
}
