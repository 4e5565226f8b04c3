package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// Options make a Builder.
type Options struct {
	Store *store.Store
	// HostStoreDir is a folder that shows every valid path: the mount. ""
	// stands for the store folder itself.
	HostStoreDir string
	// StateDir holds the locks of build users.
	StateDir string
	// LogDir gets the logs, as drvs/XX/….drv.bz2.
	LogDir string
	// ScratchDir is where builds run. It must be on a disk with room for their
	// outputs and belong to the builder alone: New empties it.
	ScratchDir string
	// Substituter fetches paths; nil when there is none.
	Substituter Substituter
	// Sign adds our signatures to what was built; nil when there are none.
	Sign func(*pathinfo.PathInfo)
	// Logger takes what no client is told; nil discards it.
	Logger *slog.Logger
}

// Substituter fetches what others have built.
type Substituter interface {
	// Query tells of each path where it would come from. Those that are
	// nowhere to be had are left out.
	Query(ctx context.Context, paths []storepath.Path) (map[storepath.Path]Substitute, error)
	// Fetch makes a path valid. Its references are valid already.
	Fetch(ctx context.Context, path storepath.Path, sink Sink) error
}

// Substitute is what is known of a path that may be fetched.
type Substitute struct {
	Source       string // where it would come from, for the client's eyes
	References   []storepath.Path
	DownloadSize uint64 // bytes to fetch; 0 if unknown
	NarSize      uint64
}

// Request asks for targets to be made valid.
type Request struct {
	Targets  []Target
	Mode     Mode
	Settings Settings
	// Sink hears of everything that is done for this request; nil is Discard.
	Sink Sink
	// SkipIDs leaves Realised.ID empty. To find it out, all derivations below
	// the targets may have to be read.
	SkipIDs bool
	// Lease, if there is one, gets the outputs of the targets, so that they
	// outlive the request. Everything else is held while the request lasts.
	Lease *store.Lease
}

// ErrClosed is what requests get from a Builder that is closed.
var ErrClosed = errors.New("the builder is closed")

// Builder runs the builds of all clients.
type Builder struct {
	store     *store.Store
	dir       storepath.Dir
	hostStore string
	logDir    string
	subst     Substituter
	sign      func(*pathinfo.PathInfo)
	logger    *slog.Logger
	scratch   *scratch
	users     *userPools

	fetchSlots chan struct{} // has an element for every fetch that runs

	ctx    context.Context // ends with Close; the owner of everything that runs
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	closed  bool                      // guarded by mu
	jobs    map[jobKey]*job           // waiting or running; guarded by mu
	making  map[storepath.Path]bool   // outputs of the jobs that run; guarded by mu
	fetches map[storepath.Path]*fetch // running; guarded by mu
	queues  []*session                // with jobs that wait, next turn first; guarded by mu
	running int                       // jobs that have a slot; guarded by mu
}

// New makes a Builder and removes what an earlier one left behind.
func New(o Options) (*Builder, error) {
	b := &Builder{
		store:     o.Store,
		dir:       o.Store.Dir(),
		hostStore: o.HostStoreDir,
		logDir:    o.LogDir,
		subst:     o.Substituter,
		sign:      o.Sign,
		logger:    o.Logger,
		jobs:      make(map[jobKey]*job),
		making:    make(map[storepath.Path]bool),
		fetches:   make(map[storepath.Path]*fetch),

		fetchSlots: make(chan struct{}, maxFetches),
	}
	if b.hostStore == "" {
		b.hostStore = string(b.dir)
	}
	if b.logger == nil {
		b.logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if b.scratch, err = openScratch(o.ScratchDir, string(b.dir), b.hostStore); err != nil {
		return nil, err
	}
	b.users = newUserPools(o.StateDir)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// Close ends all builds and returns when nothing of them is left.
func (b *Builder) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.tasks.Wait()
	b.users.close()
	return b.scratch.close()
}

// start runs f as a task of the builder, unless it is closed.
func (b *Builder) start(f func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.tasks.Go(f)
	return nil
}

// Build makes the targets valid. It returns one result for each of them, in
// their order; an error means that the request as a whole failed, and has a
// text for the client. When ctx ends, what was begun for this request alone is
// killed, and Build returns when that is gone.
func (b *Builder) Build(ctx context.Context, r Request) ([]Result, error) {
	s := newSession(b, r)
	for _, t := range r.Targets {
		s.addTarget(t)
	}
	return s.run(ctx)
}

// BuildDerivation builds a derivation that need not be in the store and whose
// inputs are all sources. Request.Targets is not used.
func (b *Builder) BuildDerivation(
	ctx context.Context, drvPath storepath.Path, drv *derivation.Derivation, r Request,
) (Result, error) {
	r.Targets = []Target{{Drv: drvPath}}
	s := newSession(b, r)
	s.addBasic(r.Targets[0], drv)
	results, err := s.run(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return Result{}, err
		}
		return Result{Target: r.Targets[0], Status: MiscFailure, ErrorMsg: err.Error()}, nil
	}
	return results[0], nil
}

// Failure sums up the results of a request as nix-daemon does for operations
// that have no results: nil when all is well; the one failure; or one that
// counts them, after telling the sink of each.
func (b *Builder) Failure(results []Result, sink Sink) error {
	var failed []storepath.Path
	var first *Result
	var exit uint32
	for i := range results {
		r := &results[i]
		if r.Status.OK() {
			continue
		}
		path := r.Target.Drv
		if path.IsZero() {
			path = r.Target.Path
		}
		failed = append(failed, path)
		exit = r.ExitStatus
		if r.ErrorMsg == "" || r.quiet {
			continue
		}
		if first == nil {
			first = r
		} else {
			logError(sink, r.ErrorMsg)
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(failed) == 1 && first != nil:
		return &Error{Status: first.Status, Msg: first.ErrorMsg, ExitStatus: first.ExitStatus}
	}
	if first != nil {
		logError(sink, first.ErrorMsg)
	}
	return &Error{Status: MiscFailure, Msg: fmt.Sprintf("build of %s failed", b.showPaths(failed)), ExitStatus: exit}
}

// showPaths lists paths as Nix does in messages.
func (b *Builder) showPaths(paths []storepath.Path) string {
	paths = storepath.SortUnique(paths)
	var out []byte
	for i, p := range paths {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(out, '\'')
		out = b.dir.AppendJoin(out, p)
		out = append(out, '\'')
	}
	return string(out)
}
