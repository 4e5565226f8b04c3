// Package store is a Nix store over a castore and a path info service: it
// adds paths, renders them as NARs, scans them for references, registers and
// deletes them.
//
// # Adding
//
// Whatever comes in — a NAR, a plain file, a folder — becomes the same stream
// of events and runs through one pipeline:
//
//	NAR  ─┐           ┌─▶ NAR bytes ─▶ SHA-256, reference scan      (one goroutine)
//	file ─┼─▶ events ─┼─▶ contents  ─▶ BLAKE3, blob service         (some workers)
//	tree ─┘           └─▶ structure ─▶ directories, children first
//
// The NAR bytes are written anew from the events, so the hash that is
// compared with the claimed one is that of what was stored. Memory is bounded
// whatever the path: small files are handed to the workers as a whole, large
// ones in pieces, and the pieces in flight have a budget.
//
// # Leases
//
// A Lease keeps paths from being deleted. It lives in the process that also
// deletes, so there are no lock files and nothing is polled. See Lease.
//
// # Errors
//
// Errors that a client is meant to see have the text that nix-daemon would
// give, with full store paths; causes can be tested with errors.Is and
// errors.As.
//
// # Locks
//
// leases.mu and listeners.mu are leaves: nothing is called while they are
// held.
package store

import (
	"log/slog"
	"runtime"
	"sync"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Options are the parts that a Store is made of.
type Options struct {
	// Dir is the store folder that paths are named under. The zero value is
	// storepath.DefaultDir.
	Dir storepath.Dir

	// Castore keeps the contents.
	Castore castore.Store

	// PathInfo keeps the metadata.
	PathInfo pathinfo.Service

	// Logger takes what nobody gets as an error; nil discards it.
	Logger *slog.Logger

	// Workers is the number of goroutines of one add that hash and store
	// contents, and of one render that read them ahead. Zero stands for the
	// number of processors.
	Workers int
}

// Store is a Nix store. All methods may be called concurrently. It owns
// neither the castore nor the path info service: whoever opened them closes
// them, after the last call.
type Store struct {
	dir     storepath.Dir
	castore castore.Store
	infos   pathinfo.Service
	logger  *slog.Logger
	workers int

	hasher *derivation.Hasher

	leases    leaseTable
	listeners listeners
}

// New returns a store over the given parts.
func New(o Options) *Store {
	s := &Store{
		dir:     o.Dir,
		castore: o.Castore,
		infos:   o.PathInfo,
		logger:  o.Logger,
		workers: o.Workers,
	}
	if s.dir == "" {
		s.dir = storepath.DefaultDir
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.workers <= 0 {
		s.workers = runtime.GOMAXPROCS(0)
	}
	s.hasher = derivation.NewHasher(s.dir)
	s.leases.init()
	return s
}

// Dir returns the store folder.
func (s *Store) Dir() storepath.Dir { return s.dir }

// Castore returns the service that keeps the contents.
func (s *Store) Castore() castore.Store { return s.castore }

// PathInfo returns the service that keeps the metadata. Paths are to be
// registered and deleted through the Store, which checks more and tells the
// listeners.
func (s *Store) PathInfo() pathinfo.Service { return s.infos }

// Hasher returns the hasher of derivations that the store checks them with. It
// remembers the hashes of all that it has seen.
func (s *Store) Hasher() *derivation.Hasher { return s.hasher }

// Listener is told what becomes valid and what ceases to be. Nil fields are
// left out.
type Listener struct {
	// Added is called after paths became valid, before the call that added
	// them returns.
	Added func(paths []storepath.Path)

	// Removed is called after paths were deleted, before anybody can get a
	// lease on one of them again.
	Removed func(paths []storepath.Path)
}

type listeners struct {
	mu   sync.Mutex
	list []Listener // guarded by mu; replaced, never changed
}

// Listen calls l's functions from now on. They must not keep or change the
// slice that they are given.
func (s *Store) Listen(l Listener) {
	s.listeners.mu.Lock()
	defer s.listeners.mu.Unlock()
	list := s.listeners.list
	s.listeners.list = append(list[:len(list):len(list)], l)
}

func (l *listeners) get() []Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list
}

func (l *listeners) added(paths []storepath.Path) {
	for _, x := range l.get() {
		if x.Added != nil {
			x.Added(paths)
		}
	}
}

func (l *listeners) removed(paths []storepath.Path) {
	for _, x := range l.get() {
		if x.Removed != nil {
			x.Removed(paths)
		}
	}
}
