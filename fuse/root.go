package fuse

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"iter"
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
type rootFolder struct {
	list func(context.Context) iter.Seq2[castore.Entry, error]
	key  [16]byte

	mu       sync.Mutex
	mtime    int64               // nanoseconds, grows with each change; guarded by mu
	removed  uint64              // number of removals so far; guarded by mu
	current  *listing            // the listing in use, may be nil; guarded by mu
	building int                 // listings being made; guarded by mu
	dropped  map[string]struct{} // removed while listings are being made; guarded by mu
}

// listing is a snapshot of the root, sorted by offset. It is never changed.
type listing struct {
	mtime   int64
	entries []rootEntry
}

type rootEntry struct {
	castore.Entry
	offset uint64
}

func newRootFolder(r Roots) *rootFolder {
	f := &rootFolder{list: r.List, mtime: time.Now().UnixNano()}
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

// forget keeps removed names out of every listing that is handed out from now
// on, also of those that are being made from older data.
func (r *rootFolder) forget(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed++
	r.current = nil
	if r.building == 0 {
		return
	}
	if r.dropped == nil {
		r.dropped = map[string]struct{}{}
	}
	for _, name := range names {
		r.dropped[name] = struct{}{}
	}
}

// snapshot returns the listing to read from. At the start of a listing it must be
// a new one; on the way, the one in use does, so that a root that changes all the
// time is not listed again for each piece.
func (r *rootFolder) snapshot(ctx context.Context, start bool) (*listing, error) {
	r.mu.Lock()
	if l := r.current; l != nil && (!start || l.mtime == r.mtime) {
		r.mu.Unlock()
		return l, nil
	}
	l := &listing{mtime: r.mtime}
	r.building++
	r.mu.Unlock()

	err := l.fill(r, ctx)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.building--
	if len(r.dropped) > 0 {
		l.entries = slices.DeleteFunc(l.entries, func(e rootEntry) bool {
			_, gone := r.dropped[e.Name]
			return gone
		})
	}
	if r.building == 0 {
		r.dropped = nil
	}
	if err != nil {
		return nil, err
	}
	if r.current == nil || r.current.mtime <= l.mtime {
		r.current = l
	}
	return l, nil
}

// release lets go of a listing that was read to its end: the kernel keeps it.
func (r *rootFolder) release(l *listing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == l {
		r.current = nil
	}
}

func (l *listing) fill(r *rootFolder, ctx context.Context) error {
	for e, err := range r.list(ctx) {
		if err != nil {
			return err
		}
		l.entries = append(l.entries, rootEntry{e, r.offset(e.Name)})
	}
	slices.SortFunc(l.entries, func(a, b rootEntry) int { return cmp.Compare(a.offset, b.offset) })
	return nil
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
