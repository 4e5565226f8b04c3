package fuse

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/tvixd/tvixd/castore"
)

// rootFolder is what changes in a mount: when it changed last, and the listing.
//
// The kernel reads a listing in pieces and asks for the next one by an offset,
// while entries come and go. So the entries are listed in the order of a hash of
// their names, and the offset of an entry is that hash: it means the same place
// whatever happened meanwhile. The hash has a secret key, so that nobody can make
// names that collide.
//
// A listing is kept only while it is read, and then brought up to date for each
// piece: what the kernel puts together from pieces of several readers must not
// contain an old one (see [Server.changed]).
type rootFolder struct {
	roots Roots
	key   [16]byte

	// buildMu is held while a listing is made, by listings only. It is taken
	// before mu.
	buildMu sync.Mutex

	mu       sync.Mutex
	mtime    int64               // nanoseconds, grows with each change; guarded by mu
	removed  uint64              // number of removals so far; guarded by mu
	current  *listing            // the listing in use, may be nil; guarded by mu
	building bool                // guarded by mu
	pending  map[string]struct{} // changed and not in current, or in what is being made; guarded by mu
}

// listing is a snapshot of the root, sorted by offset. It is never changed.
type listing struct {
	entries []rootEntry
}

type rootEntry struct {
	castore.Entry
	offset uint64
}

func newRootFolder(r Roots) *rootFolder {
	f := &rootFolder{roots: r, mtime: time.Now().UnixNano()}
	_, _ = rand.Read(f.key[:])
	return f
}

// modified is the time of the last change.
func (r *rootFolder) modified() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mtime
}

func (r *rootFolder) removals() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removed
}

// touch gives the root a new time, by which the kernel knows that the listing
// in its cache is old.
func (r *rootFolder) touch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mtime = max(r.mtime+1, time.Now().UnixNano())
}

// change notes that names were added or removed: every snapshot that is asked
// for from now on shows them as they are.
func (r *rootFolder) change(names []string, removed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if removed {
		r.removed++
	}
	if r.current == nil && !r.building {
		return
	}
	if r.pending == nil {
		r.pending = map[string]struct{}{}
	}
	for _, name := range names {
		r.pending[name] = struct{}{}
	}
	if !r.building && len(r.pending) > minPatch+len(r.current.entries)/patchFraction {
		r.current, r.pending = nil, nil
	}
}

// A listing is made anew rather than patched when more names have changed than
// minPatch and one in patchFraction of its entries.
const (
	minPatch      = 1000
	patchFraction = 10
)

// snapshot returns a listing with all changes that were noted before the call.
func (r *rootFolder) snapshot(ctx context.Context) (*listing, error) {
	r.buildMu.Lock()
	defer r.buildMu.Unlock()
	r.mu.Lock()
	base, names := r.current, r.pending
	if base != nil && len(names) == 0 {
		r.mu.Unlock()
		return base, nil
	}
	r.building, r.pending = true, nil
	r.mu.Unlock()

	var l *listing
	var err error
	if base == nil {
		l, err = r.list(ctx)
	} else {
		l, err = r.patch(ctx, base, names)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.building, r.current = false, l
	if l == nil {
		r.pending = nil
	}
	return l, err
}

// release lets go of a listing that was read to its end: the kernel keeps it.
func (r *rootFolder) release(l *listing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == l && !r.building {
		r.current, r.pending = nil, nil
	}
}

func (r *rootFolder) list(ctx context.Context) (*listing, error) {
	l := &listing{}
	for e, err := range r.roots.List(ctx) {
		if err != nil {
			return nil, err
		}
		l.entries = append(l.entries, rootEntry{e, r.offset(e.Name)})
	}
	l.sort()
	return l, nil
}

// patch returns a copy of a listing in which some names are as they are now.
func (r *rootFolder) patch(ctx context.Context, old *listing, names map[string]struct{}) (*listing, error) {
	l := &listing{entries: make([]rootEntry, 0, len(old.entries)+len(names))}
	for _, e := range old.entries {
		if _, changed := names[e.Name]; !changed {
			l.entries = append(l.entries, e)
		}
	}
	for name := range names {
		n, err := r.roots.Lookup(ctx, name)
		if errors.Is(err, castore.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l.entries = append(l.entries, rootEntry{castore.Entry{Name: name, Node: n}, r.offset(name)})
	}
	l.sort()
	return l, nil
}

func (l *listing) sort() {
	slices.SortFunc(l.entries, func(a, b rootEntry) int { return cmp.Compare(a.offset, b.offset) })
}

// after returns the entries behind an offset.
func (l *listing) after(offset uint64) []rootEntry {
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].offset > offset })
	return l.entries[i:]
}

// The offsets before those of entries: the start, then behind "." and "..".
const (
	offsetDot = iota + 1
	offsetDotDot
)

func (r *rootFolder) offset(name string) uint64 {
	var buf [16 + castore.MaxNameLen]byte
	n := copy(buf[:], r.key[:])
	n += copy(buf[n:], name)
	sum := sha256.Sum256(buf[:n])
	// Positive as a signed number, as the kernel sees it.
	return max(binary.LittleEndian.Uint64(sum[:])>>1, offsetDotDot+1)
}
