// Package holds keeps account of what must not be swept because somebody is
// working with it: everything touched since the oldest hold that is in force.
package holds

import (
	"encoding/binary"
	"iter"
	"maps"
	"sync"

	"github.com/tvixd/tvixd/castore"
)

// Set is the account. The zero value is ready. Digests are kept shortened: two
// that begin alike are held together, which keeps a little too much, never too
// little. Directories are kept whole, so that what is below them can be found.
type Set struct {
	mu sync.Mutex
	// generations begin where a hold in force began; the touched digests are in
	// the generation that was the newest at the time.
	generations []*generation // guarded by mu
}

type generation struct {
	holds int // in force that began with this generation
	short map[uint64]struct{}
	dirs  map[castore.Digest]struct{}
}

// Hold begins a hold; release, which may be called more than once, ends it.
func (s *Set) Hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.generations); n > 0 && len(s.generations[n-1].short) == 0 {
		return s.join(s.generations[n-1])
	}
	return s.begin()
}

// begin makes a generation with a hold. The caller holds mu.
func (s *Set) begin() (release func()) {
	g := &generation{
		short: make(map[uint64]struct{}),
		dirs:  make(map[castore.Digest]struct{}),
	}
	s.generations = append(s.generations, g)
	return s.join(g)
}

// join adds a hold to a generation. The caller holds mu.
func (s *Set) join(g *generation) (release func()) {
	g.holds++
	return sync.OnceFunc(func() { s.release(g) })
}

// HoldAll begins a hold that also covers what is held already, by whomever: the
// sweep's own. Without it, what was touched before the sweep could be let go
// after the sweep has read its roots, and become alive just then.
func (s *Set) HoldAll() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.generations) == 0 {
		return s.begin()
	}
	return s.join(s.generations[0])
}

// release ends a hold of g. When it was the last one, what g holds belongs to
// the generation before, if there is one.
func (s *Set) release(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.holds--; g.holds > 0 {
		return
	}
	for i, other := range s.generations {
		if other != g {
			continue
		}
		if i > 0 {
			s.generations[i-1].absorb(g)
		}
		s.generations = append(s.generations[:i], s.generations[i+1:]...)
		return
	}
}

// absorb moves the contents of other into g, the smaller into the larger.
func (g *generation) absorb(other *generation) {
	if len(other.short) > len(g.short) {
		g.short, other.short = other.short, g.short
		g.dirs, other.dirs = other.dirs, g.dirs
	}
	maps.Copy(g.short, other.short)
	maps.Copy(g.dirs, other.dirs)
}

// Touch records that d was put or found present.
func (s *Set) Touch(d castore.Digest) { s.touch(d, false) }

// TouchDirectory is Touch for a directory.
func (s *Set) TouchDirectory(d castore.Digest) { s.touch(d, true) }

func (s *Set) touch(d castore.Digest, dir bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.generations)
	if n == 0 {
		return
	}
	g := s.generations[n-1]
	g.short[shorten(d)] = struct{}{}
	if dir {
		g.dirs[d] = struct{}{}
	}
}

// Held tells whether d was touched under a hold in force.
func (s *Set) Held(d castore.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := shorten(d)
	for _, g := range s.generations {
		if _, ok := g.short[key]; ok {
			return true
		}
	}
	return false
}

// Directories iterates over the directories held at the time of the call.
func (s *Set) Directories() iter.Seq[castore.Digest] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dirs []castore.Digest
	for _, g := range s.generations {
		for d := range g.dirs {
			dirs = append(dirs, d)
		}
	}
	return func(yield func(castore.Digest) bool) {
		for _, d := range dirs {
			if !yield(d) {
				return
			}
		}
	}
}

func shorten(d castore.Digest) uint64 { return binary.LittleEndian.Uint64(d[:]) }
