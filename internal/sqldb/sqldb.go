// Package sqldb runs the one SQLite database that all components share.
//
// It is a thin layer over the driver, made for many small transactions from
// many goroutines:
//
//   - One connection writes. The functions given to [DB.Write] run one after
//     the other on it, and those that wait at the same time share one
//     transaction, each in a savepoint of its own: group commit.
//   - A pool of connections reads, beside the writer and without waiting for
//     it. [DB.Read] gives one snapshot for all its queries; [DB.Lookup] saves
//     the transaction around single queries.
//   - Statements are prepared once a connection.
//   - The write-ahead log is kept short by checkpoints in the background.
//   - Components keep their tables apart and migrate them apart
//     ([DB.Migrate]).
//
// # Durability
//
// The journal is a write-ahead log with synchronous=NORMAL. What a returned
// Write did survives the death of the process at once. After a loss of power
// the database is whole, but the last transactions may be missing: always a
// suffix in the order of submission, so what was committed first is never lost
// alone. [DB.Flush] makes them durable where that matters.
//
// # Full disk
//
// Errors for want of space wrap [syscall.ENOSPC]. A reserve file beside the
// database lets deletions go on: [DB.Reclaim] gives it up when it must, and so
// does [Open].
package sqldb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
)

// Options configures [Open]. The zero value is good for production.
type Options struct {
	// Logger receives what goes wrong in the background. Default: none.
	Logger *slog.Logger
	// Readers is the number of connections that may read at once. Default:
	// twice the number of CPUs, at least 4.
	Readers int
	// CacheBytes is the page cache of one connection. Default: 8 MiB.
	CacheBytes int64
	// CheckpointBytes is the size of the write-ahead log from which it is
	// copied into the database in the background. Default: 8 MiB. At eight
	// times this size writers wait for it.
	CheckpointBytes int64
	// ReserveBytes is the size of the reserve file. Default: 8 MiB; below 0
	// there is none.
	ReserveBytes int64
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Readers <= 0 {
		o.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 8 << 20
	}
	if o.CheckpointBytes <= 0 {
		o.CheckpointBytes = 8 << 20
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 8 << 20
	}
	return o
}

// ErrClosed is returned for calls after [DB.Close].
var ErrClosed = errors.New("database is closed")

// DB is an open database. All methods may be called concurrently.
type DB struct {
	path string
	opts Options

	writes chan *writeRequest
	// readers holds the connections that nobody reads with; nil stands for
	// one that was not opened yet.
	readers chan *conn

	checkpoint   chan struct{}
	checkpointMu sync.Mutex // held while a checkpoint runs
	reserve      reserve

	closing     chan struct{} // closed to end the checkpoints
	closeWriter chan struct{} // closed to end the writer, after all others
	written     chan struct{} // closed when the writer has ended
	closeOnce   sync.Once
	wg          sync.WaitGroup // the goroutine that makes checkpoints
	// active counts calls, which Close waits for; mu orders its first Add
	// before Close's Wait.
	mu     sync.Mutex
	closed bool // guarded by mu
	active sync.WaitGroup
}

// Open opens the database at path, creating it if it is missing; its folder
// must exist. Only the owner may read its files, since whoever can read them can
// lock them: modes that allow more are mended.
func Open(path string, opts Options) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	opts = opts.withDefaults()
	db := &DB{
		path:        path,
		opts:        opts,
		writes:      make(chan *writeRequest, maxBatch),
		readers:     make(chan *conn, opts.Readers),
		checkpoint:  make(chan struct{}, 1),
		reserve:     reserve{path: path + "-reserve", size: opts.ReserveBytes, logger: opts.Logger},
		closing:     make(chan struct{}),
		closeWriter: make(chan struct{}),
		written:     make(chan struct{}),
	}
	if err := secureFiles(path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	writer, checkpointer, err := openWriters(path, opts)
	if errors.Is(err, syscall.ENOSPC) && db.FreeReserve() {
		// To open needs some space too: for the index of the log at least.
		writer, checkpointer, err = openWriters(path, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	for range opts.Readers {
		db.readers <- nil
	}
	db.reserve.fill()
	db.wg.Add(1)
	go db.writeLoop(writer)
	go db.checkpointLoop(checkpointer)
	return db, nil
}

// openWriters opens the connections that write, and has SQLite make its files.
func openWriters(path string, opts Options) (writer, checkpointer *conn, err error) {
	if writer, err = openConn(path, opts, true); err != nil {
		return nil, nil, err
	}
	err = writer.exec("SELECT count(*) FROM sqlite_schema")
	if err == nil {
		checkpointer, err = openConn(path, opts, true)
	}
	if err != nil {
		writer.close()
		return nil, nil, err
	}
	return writer, checkpointer, nil
}

// Path returns the absolute path of the database file.
func (db *DB) Path() string { return db.path }

// Close waits for running calls and closes the database. The last connection to
// close, the writer's, empties the write-ahead log. Closing twice is harmless.
func (db *DB) Close() error {
	db.mu.Lock()
	db.closed = true
	db.mu.Unlock()
	db.closeOnce.Do(func() {
		db.active.Wait()
		close(db.closing)
		db.wg.Wait()
		for range db.opts.Readers {
			if c := <-db.readers; c != nil {
				c.close()
			}
		}
		close(db.closeWriter)
		<-db.written
	})
	return nil
}

// enter registers a call; leave must follow if it succeeds.
func (db *DB) enter() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return ErrClosed
	}
	db.active.Add(1)
	return nil
}

func (db *DB) leave() { db.active.Done() }

// Read runs fn with a reader. All its queries see the same snapshot. A snapshot
// keeps the write-ahead log from being shortened: fn must be brief.
func (db *DB) Read(ctx context.Context, fn func(tx *Tx) error) error {
	return db.withReader(ctx, func(c *conn) error {
		if err := c.exec("BEGIN"); err != nil {
			return fmt.Errorf("begin read: %w", err)
		}
		defer c.rollback()
		return fn(&Tx{c: c})
	})
}

// Lookup runs fn with a reader, without a transaction: each query sees what is
// committed when it starts. It is cheaper than [DB.Read] for a single query.
func (db *DB) Lookup(ctx context.Context, fn func(tx *Tx) error) error {
	return db.withReader(ctx, func(c *conn) error { return fn(&Tx{c: c}) })
}

func (db *DB) withReader(ctx context.Context, fn func(c *conn) error) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	var c *conn
	select {
	case c = <-db.readers:
	default:
		select {
		case c = <-db.readers:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { db.readers <- c }()
	if c == nil {
		var err error
		if c, err = openConn(db.path, db.opts, false); err != nil {
			return fmt.Errorf("open database %s: %w", db.path, err)
		}
	}
	return fn(c)
}

// fileSize returns the size of a file, 0 if there is none.
func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}
