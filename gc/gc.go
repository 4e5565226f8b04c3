// Package gc finds what a store still needs and removes the rest.
//
// A collection has five steps:
//
//  1. An heir lease is taken: from here on, what any client holds for a moment
//     stays held until the collection is over. So a client that makes a root
//     and leaves while the roots are being read loses nothing.
//  2. The roots are found: links below gcroots and profiles, running processes,
//     kernel settings, and the leases of the store.
//  3. The reference graph is read in one pass and marked in memory.
//  4. The dead paths are made invalid in one transaction. The store checks the
//     leases once more in the moment of deletion and keeps what was taken
//     since; the mount is told by the store's listeners.
//  5. The castore drops what no valid path needs and gives the space back. If a
//     valid path is damaged it drops nothing, and the client is told which.
//
// Adds, builds and reads go on beside all of it. One collection runs at a
// time; others wait for it.
//
// Roots are found without any lock: a link that appears while its folder is
// read belongs to a client that holds a lease, which step 1 makes last.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// Action says what a collection does with what it finds. The numbers are those
// of the worker protocol.
type Action uint64

const (
	// ReturnLive returns the paths that the roots reach.
	ReturnLive Action = 0

	// ReturnDead returns the paths that no root reaches.
	ReturnDead Action = 1

	// DeleteDead deletes the paths that no root reaches.
	DeleteDead Action = 2

	// DeleteSpecific deletes the paths that are named, and fails at the first
	// one that is alive.
	DeleteSpecific Action = 3
)

// NoLimit as MaxFreed means that everything dead is deleted.
const NoLimit = math.MaxUint64

// Levels of messages, as the worker protocol numbers them.
const (
	levelError = 0
	levelInfo  = 3
)

// ErrIgnoreLiveness refuses a request to delete paths that are alive. Nobody
// may ask for that through a daemon.
var ErrIgnoreLiveness = errors.New("you are not allowed to ignore liveness")

// AliveError says that a path cannot be deleted because something needs it.
type AliveError struct {
	// Path is the full path, with the store folder.
	Path string
}

func (e *AliveError) Error() string {
	return fmt.Sprintf("Cannot delete path '%s' since it is still alive. "+
		"To find out why, use: nix-store --query --roots and nix-store --query --referrers", e.Path)
}

// Options are what a Collector is made from. Store and StateDir are needed.
type Options struct {
	Store *store.Store

	// StateDir holds gcroots and profiles, as /nix/var/nix does.
	StateDir string

	// ProcDir stands in for /proc. Empty means /proc.
	ProcDir string

	// Logger gets what no client is told. Nil discards it.
	Logger *slog.Logger
}

// Collector finds roots and collects garbage in one store. Its methods may be
// called concurrently.
type Collector struct {
	store    *store.Store
	dir      storepath.Dir
	stateDir string
	procDir  string
	logger   *slog.Logger
	running  chan struct{} // holds a token while a collection runs
}

// New returns a collector. It touches no file: see Prepare.
func New(o Options) *Collector {
	c := &Collector{
		store:    o.Store,
		dir:      o.Store.Dir(),
		stateDir: o.StateDir,
		procDir:  o.ProcDir,
		logger:   o.Logger,
		running:  make(chan struct{}, 1),
	}
	if c.procDir == "" {
		c.procDir = "/proc"
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Request asks for a collection.
type Request struct {
	Action Action

	// Paths are those that DeleteSpecific deletes.
	Paths []storepath.Path

	// MaxFreed ends the collection once more bytes of contents than this were
	// dropped, each counted once and before compression; the paths that were
	// unused for longest go first. Zero deletes nothing: NoLimit is no limit.
	// It does not bear on DeleteSpecific.
	MaxFreed uint64

	// IgnoreLiveness is always refused.
	IgnoreLiveness bool

	// KeepOutputs lets a live derivation keep its outputs, KeepDerivations a
	// live output the derivation that it was built by.
	KeepOutputs, KeepDerivations bool

	// Log gets the messages for the client, with their levels. Nil discards
	// them.
	Log func(level int, text string)
}

// Result is what a collection did.
type Result struct {
	// Paths are those found live or dead, or deleted, sorted. Paths that were
	// to be deleted and did not exist count as deleted.
	Paths []storepath.Path

	// BytesFreed is the space on disk that came back.
	BytesFreed uint64

	dropped uint64 // bytes of contents
	damaged bool   // a valid path is damaged, so that nothing was freed
}

// Collect runs one collection. When it returns an error, paths may have been
// deleted already; those are in the result.
func (c *Collector) Collect(ctx context.Context, req Request) (Result, error) {
	if req.Log == nil {
		req.Log = func(int, string) {}
	}
	if req.IgnoreLiveness {
		return Result{}, ErrIgnoreLiveness
	}
	if req.Action > DeleteSpecific {
		return Result{}, fmt.Errorf("collect garbage: unknown action %d", req.Action)
	}
	if err := c.begin(ctx, req.Log); err != nil {
		return Result{}, err
	}
	defer c.end()
	return c.collect(ctx, req)
}

// begin waits until no other collection runs.
func (c *Collector) begin(ctx context.Context, log func(int, string)) error {
	select {
	case c.running <- struct{}{}:
		return nil
	default:
	}
	log(levelError, "waiting for the big garbage collector lock...")
	select {
	case c.running <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Collector) end() { <-c.running }

func (c *Collector) collect(ctx context.Context, req Request) (Result, error) {
	heir := c.store.Heir()
	defer heir.Release()

	req.Log(levelInfo, "finding garbage collector roots...")
	roots, err := c.liveRoots(ctx, req.Log)
	if err != nil {
		return Result{}, fmt.Errorf("find the roots: %w", err)
	}
	refs, err := c.store.PathInfo().Graph(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("read the reference graph: %w", err)
	}
	g := newGraph(refs, req.KeepOutputs, req.KeepDerivations)
	live := g.mark(roots)

	switch {
	case req.Action == DeleteSpecific:
		return c.deleteSpecific(ctx, req, g, live)
	case req.MaxFreed == 0:
		return Result{}, nil
	case req.Action == DeleteDead:
		req.Log(levelInfo, "deleting garbage...")
		return c.deleteDead(ctx, req, g, live)
	}
	req.Log(levelInfo, "determining live/dead paths...")
	var r Result
	for i := range g.nodes {
		if live[i] == (req.Action == ReturnLive) {
			r.Paths = append(r.Paths, g.nodes[i].Path)
		}
	}
	return r, nil
}

// deleteDead deletes what is not live. With a limit it goes in rounds, since
// only the castore knows what the deletion of a path gives back.
func (c *Collector) deleteDead(ctx context.Context, req Request, g *graph, live []bool) (Result, error) {
	var r Result
	dead := g.deletionOrder(live)
	budget := req.MaxFreed
	for len(dead) > 0 {
		n := g.prefix(dead, budget)
		if err := c.deleteAndSweep(ctx, req, g.pathsOf(dead[:n]), &r); err != nil {
			return r.sorted(), err
		}
		if r.damaged {
			break // nothing tells when enough is freed
		}
		dead = dead[n:]
		if r.dropped > req.MaxFreed {
			req.Log(levelInfo, fmt.Sprintf("deleted more than %d bytes; stopping", req.MaxFreed))
			break
		}
		if budget <= NoLimit/2 {
			budget *= 2
		}
	}
	if len(r.Paths) == 0 {
		// Nothing was dead, but an interrupted collection or a refused add may
		// have left contents behind.
		if err := c.sweep(ctx, req, &r); err != nil {
			return r, err
		}
	}
	return r.sorted(), nil
}

// deleteSpecific deletes the requested paths, in their order, up to the first
// that is alive.
func (c *Collector) deleteSpecific(ctx context.Context, req Request, g *graph, live []bool) (Result, error) {
	requested := storepath.SortUnique(append([]storepath.Path(nil), req.Paths...))
	dead, absent, alive := g.deletable(requested, live)
	var r Result
	if leased := c.leased(absent); !leased.IsZero() && (alive.IsZero() || leased.Compare(alive) < 0) {
		alive = leased
	}
	for _, p := range absent {
		if alive.IsZero() || p.Compare(alive) < 0 {
			req.Log(levelInfo, fmt.Sprintf("deleting '%s'", c.dir.Join(p)))
			r.Paths = append(r.Paths, p)
		}
	}
	order := g.deletionOrder(dead.complement())
	if err := c.deleteAndSweep(ctx, req, g.pathsOf(order), &r); err != nil {
		return r.sorted(), err
	}
	if alive.IsZero() {
		alive = missingFrom(requested, r.sorted().Paths)
	}
	if !alive.IsZero() {
		return r.sorted(), &AliveError{c.dir.Join(alive)}
	}
	return r.sorted(), nil
}

// deleteAndSweep deletes paths, which must be in deletion order, and frees
// their space.
func (c *Collector) deleteAndSweep(ctx context.Context, req Request, paths []storepath.Path, r *Result) error {
	if len(paths) == 0 {
		return nil
	}
	deleted, err := c.store.Delete(ctx, paths)
	if err != nil {
		return fmt.Errorf("delete dead paths: %w", err)
	}
	for _, p := range deleted {
		req.Log(levelInfo, fmt.Sprintf("deleting '%s'", c.dir.Join(p)))
	}
	r.Paths = append(r.Paths, deleted...)
	return c.sweep(ctx, req, r)
}

// sweep frees the space of what no valid path needs. With a damaged path it frees
// nothing; that is told and is no error, for the dead paths are deleted.
func (c *Collector) sweep(ctx context.Context, req Request, r *Result) error {
	swept, err := c.store.Castore().Sweep(ctx, c.store.PathInfo(), castore.SweepOptions{})
	r.BytesFreed += swept.FreedBytes
	r.dropped += swept.DroppedBytes
	var damage *castore.DamageError
	if errors.As(err, &damage) {
		r.damaged = true
		err = c.reportDamage(ctx, req, damage)
	}
	if err != nil {
		return fmt.Errorf("free the space of dead paths: %w", err)
	}
	return nil
}

// reportDamage tells the client which valid paths are damaged and how to go on.
func (c *Collector) reportDamage(ctx context.Context, req Request, damage *castore.DamageError) error {
	causes := make(map[castore.Node]error)
	for _, o := range damage.Objects {
		if o.Root == (castore.Node{}) {
			req.Log(levelError, fmt.Sprintf("warning: damaged contents in use: %v", o.Err))
		} else if causes[o.Root] == nil {
			causes[o.Root] = o.Err
		}
	}
	if len(causes) > 0 {
		for info, err := range c.store.PathInfo().All(ctx) {
			if err != nil {
				return err
			}
			if cause := causes[info.Root]; cause != nil {
				req.Log(levelError, fmt.Sprintf("warning: path '%s' is damaged: %v", c.dir.Join(info.Path), cause))
			}
		}
	}
	req.Log(levelError, "warning: no space was freed, because what a damaged path still has cannot be told from garbage; "+
		"repair the path (nix-store --repair-path) or delete it, then collect again; 'tvixd verify --check-contents' finds all damage")
	return nil
}

// leased returns the first of paths that a lease holds, or none.
func (c *Collector) leased(paths []storepath.Path) storepath.Path {
	if len(paths) == 0 {
		return storepath.Path{}
	}
	held := make(map[storepath.Path]bool)
	for _, p := range c.store.TempRoots() {
		held[p] = true
	}
	for _, p := range paths {
		if held[p] {
			return p
		}
	}
	return storepath.Path{}
}

func (r Result) sorted() Result {
	r.Paths = storepath.SortUnique(r.Paths)
	return r
}

// missingFrom returns the first of want that is not in have, or none. Both are
// sorted.
func missingFrom(want, have []storepath.Path) storepath.Path {
	for _, p := range want {
		for len(have) > 0 && have[0].Compare(p) < 0 {
			have = have[1:]
		}
		if len(have) == 0 || have[0] != p {
			return p
		}
	}
	return storepath.Path{}
}
