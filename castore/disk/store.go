package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/internal/holds"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// Options configures [Open]. Dir and DB are needed.
type Options struct {
	// Dir is the folder of the store. It is made if it is missing.
	Dir string
	// DB keeps the index. It stays open when the store is closed.
	DB *sqldb.DB
	// Logger receives what goes wrong. Default: none.
	Logger *slog.Logger
	// Compression is how new blocks are stored. Default: [CompressS2].
	Compression Compression
	// CacheBytes is the memory for decoded blocks. Default: 64 MiB.
	CacheBytes int64
	// PackBytes is the size at which a pack is full. Default: 512 MiB.
	PackBytes int64
	// Workers is the number of goroutines that hash, compress and append.
	// Default: the number of CPUs.
	Workers int
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 64 << 20
	}
	if o.PackBytes <= 0 {
		o.PackBytes = 512 << 20
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o
}

// ErrLocked is wrapped by the error of [Open] when another process, or another
// store of this one, has the folder open.
var ErrLocked = errors.New("in use by another process")

// Store is a castore in pack files. All methods may be called concurrently.
type Store struct {
	opts     Options
	log      *slog.Logger
	lock     *os.File
	index    *index
	packs    *packs
	append   *appender
	cache    *cache
	health   health
	presence presence
	holds    holds.Set

	// gate lets a sweep decide what goes while nobody is in the middle of
	// finding out whether something is present.
	gate      sync.RWMutex
	condemned condemned // guarded by gate

	syncMu  sync.Mutex // held by the synchronisation that runs
	sweepMu sync.Mutex // held by the sweep that runs
	retryMu sync.Mutex // held while stuck blocks are tried again

	jobs    chan func()   // for the workers
	flush   chan struct{} // asks for a synchronisation in the background
	grow    chan struct{} // asks for a larger filter
	cancel  func()        // ends the making of a filter
	stop    chan struct{} // closed by Close when no call is left
	workers sync.WaitGroup
	calls   *calls

	// pendingN is the number of pending objects, read without mu: mostly there
	// are none, and readers need not look.
	pendingN atomic.Int64

	// mu guards all that follows.
	mu        sync.Mutex
	pending   map[castore.Digest]pendingRef
	open      *pendingBlock              // takes small objects; nil if none was begun
	inflight  map[*pendingBlock]struct{} // sealed, and not yet appended
	stuck     []*pendingBlock            // could not be appended; in memory until they can
	stuckErr  error                      // why
	unsynced  []*pendingBlock            // appended, and not yet committed
	unsyncedN int64                      // bytes in unsynced
	lastBlock uint64
	nextRound *syncRound // joined by calls of Sync; nil if none waits
}

var _ castore.Store = (*Store)(nil)

// Open opens the store in a folder, or makes a new one. Damage in packs does
// not keep it from opening. A database that does not belong to the packs does,
// and nothing is changed then: see [ErrNoIndex].
func Open(ctx context.Context, opts Options) (*Store, error) {
	s, err := open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open castore %s: %w", opts.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, opts Options) (*Store, error) {
	s, err := newStore(ctx, opts)
	if err != nil {
		return nil, err
	}
	err = s.checkGeneration(ctx)
	if err == nil {
		err = s.nextGeneration(ctx)
	}
	if err == nil {
		err = s.recover(ctx)
	}
	if err != nil {
		s.append.close()
		s.packs.closeAll()
		s.lock.Close()
		return nil, err
	}
	s.start()
	return s, nil
}

// newStore makes a store that is locked but neither recovered nor started.
func newStore(ctx context.Context, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	packDir := filepath.Join(opts.Dir, "packs")
	if err := os.MkdirAll(packDir, dirMode); err != nil {
		return nil, err
	}
	for _, dir := range []string{opts.Dir, packDir} {
		if err := secure(dir, dirMode); err != nil {
			return nil, err
		}
	}
	lock, err := lockDir(opts.Dir)
	if err != nil {
		return nil, err
	}
	ix, err := openIndex(ctx, opts.DB)
	if err != nil {
		lock.Close()
		return nil, err
	}
	packs := newPacks(packDir)
	return &Store{
		opts:     opts,
		log:      opts.Logger,
		lock:     lock,
		index:    ix,
		packs:    packs,
		append:   newAppender(packs, opts.PackBytes),
		cache:    newCache(opts.CacheBytes),
		jobs:     make(chan func(), opts.Workers),
		flush:    make(chan struct{}, 1),
		grow:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
		calls:    newCalls(),
		pending:  make(map[castore.Digest]pendingRef),
		inflight: make(map[*pendingBlock]struct{}),
	}, nil
}

// Modes of what a store makes: it is the owner's alone, for everybody else sees the
// contents, with their own modes, elsewhere.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// secure gives a folder or file its mode, whatever the umask was when it was made.
func secure(path string, mode os.FileMode) error {
	fi, err := os.Stat(path)
	if err == nil && fi.Mode().Perm() != mode {
		err = os.Chmod(path, mode)
	}
	return err
}

// lockDir takes the lock of a store's folder; it is free when the file is closed,
// however the process ends. It is on the folder itself: a file could be removed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return f, nil
}

func (s *Store) start() {
	for range s.opts.Workers {
		s.workers.Add(1)
		go s.work()
	}
	s.workers.Add(2)
	go s.flushLoop()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.filterLoop(ctx)
	s.grow <- struct{}{}
}

// work runs jobs until the store stops. Jobs never wait for other jobs.
func (s *Store) work() {
	defer s.workers.Done()
	for {
		select {
		case job := <-s.jobs:
			job()
		case <-s.stop:
			return
		}
	}
}

// enter begins a call; leave ends it.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.calls.enter() {
		return castore.ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.calls.leave() }

// Close implements [castore.Store].
func (s *Store) Close() error {
	if !s.calls.close() {
		return nil
	}
	err := s.sync(context.Background())
	if errors.Is(err, syscall.ENOSPC) {
		// Nobody was told that it is safe, and it cannot be made so.
		s.log.Warn("disk is full; what was not synced is dropped", "err", err)
		err = nil
	}
	close(s.stop)
	s.cancel()
	s.workers.Wait()
	s.append.close()
	s.packs.closeAll()
	s.lock.Close()
	if err != nil {
		return fmt.Errorf("close castore: %w", err)
	}
	return nil
}

// Hold implements [castore.Keeper].
func (s *Store) Hold() (release func()) { return s.holds.Hold() }

// Stats implements [castore.Keeper].
func (s *Store) Stats(ctx context.Context) (castore.Stats, error) {
	if err := s.enter(ctx); err != nil {
		return castore.Stats{}, err
	}
	defer s.leave()
	var st castore.Stats
	err := s.index.db.Read(ctx, func(tx *sqldb.Tx) error {
		if err := tx.QueryRow("SELECT count(*), coalesce(sum(raw), 0) FROM castore_blocks").Scan(new(int), &st.ObjectBytes); err != nil {
			return err
		}
		if err := tx.QueryRow("SELECT count(*) FROM castore_objects").Scan(&st.Objects); err != nil {
			return err
		}
		return tx.QueryRow("SELECT count(*) FROM castore_packs").Scan(&st.Packs)
	})
	if err != nil {
		return castore.Stats{}, fmt.Errorf("stats: %w", err)
	}
	for _, id := range s.packs.ids() {
		if fi, err := os.Stat(s.packs.path(id)); err == nil {
			st.StoredBytes += uint64(fi.Size())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Objects += uint64(len(s.pending))
	for b := range s.inflight {
		st.UnsyncedBytes += uint64(b.rawLen)
	}
	if s.open != nil {
		st.UnsyncedBytes += uint64(s.open.rawLen)
	}
	st.UnsyncedBytes += uint64(s.unsyncedN)
	st.ObjectBytes += st.UnsyncedBytes
	return st, nil
}
