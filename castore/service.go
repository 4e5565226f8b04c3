package castore

import (
	"context"
	"io"
	"iter"
)

// BlobService keeps blobs. All methods may be called concurrently.
type BlobService interface {
	// Has tells for each digest whether its blob is present and not known to
	// be damaged. The answer has the length and order of the question.
	Has(ctx context.Context, digests []Digest) ([]bool, error)
	// Open gives access to a blob; it returns an error that wraps [ErrNotFound]
	// when the blob is not there. What was put is readable at once, before Sync.
	Open(ctx context.Context, d Digest) (Blob, error)
	// Create starts a blob of large or unknown size, written as a stream in
	// constant memory. The context belongs to the writer until it is committed
	// or aborted: its end makes Write and Commit fail.
	Create(ctx context.Context) (BlobWriter, error)
	// PutBlob stores a blob in one call and returns its name. It is meant for
	// small blobs and does not keep data. Storing what is there already costs
	// little and changes nothing, except that damaged bytes are healed.
	// Durable after the next Sync.
	PutBlob(ctx context.Context, data []byte) (Digest, error)
}

// Blob reads one blob. Every byte that it returns was checked against a
// checksum of the medium; damage gives an error that wraps [ErrCorrupt], never
// other bytes. ReadAt may be called concurrently. A blob that is swept
// meanwhile reads as [ErrNotFound].
type Blob interface {
	io.ReaderAt
	io.WriterTo
	// Size is the length of the blob in bytes.
	Size() uint64
	// Close frees the resources of the handle.
	Close() error
}

// BlobWriter receives the contents of one blob. It is used by one goroutine.
// Either Commit or Abort must be called; Abort after Commit does nothing.
type BlobWriter interface {
	io.Writer
	// Commit completes the blob and returns its name and size in bytes. The
	// blob can be opened then, and is durable after the next Sync.
	Commit() (Digest, uint64, error)
	// Abort drops what was written.
	Abort() error
}

// DirectoryService keeps directories. All methods may be called concurrently.
type DirectoryService interface {
	// GetDirectory returns a directory, which the caller owns; an error that
	// wraps [ErrNotFound] when it is not there.
	GetDirectory(ctx context.Context, d Digest) (*Directory, error)
	// PutDirectory validates and stores a directory and returns its name. What
	// its entries refer to must have been put before; this is not checked.
	// Durable after the next Sync.
	PutDirectory(ctx context.Context, dir *Directory) (Digest, error)
}

// Store is a whole castore: blobs, directories and their upkeep.
type Store interface {
	BlobService
	DirectoryService
	Keeper
	// Close makes everything put before durable, as far as there is space for
	// it, and frees the store. It waits for running calls; later ones get
	// [ErrClosed]. What no good Sync has covered is not promised to survive.
	io.Closer
}

// Keeper is the upkeep of a store. All methods may be called concurrently,
// beside reads and puts; a Sweep waits for another one that is running.
type Keeper interface {
	// Sync makes everything durable whose put returned before the call.
	// Concurrent calls share one synchronisation. After an error nothing may
	// be registered that refers to what was put since the last good Sync; the
	// next call tries the same again.
	Sync(ctx context.Context) error
	// Hold keeps everything that is put, or found present by Has or a put,
	// from this call on until release is called, from being swept. Release
	// may be called more than once.
	Hold() (release func())
	// Sweep drops the blobs and directories that cannot be reached from the
	// live roots and are not held, and gives their space back. If anything that
	// the roots need is missing or known to be damaged, nothing is dropped and
	// the error is a [*DamageError].
	Sweep(ctx context.Context, live LiveSet, opts SweepOptions) (SweepResult, error)
	// Stats returns the present sizes.
	Stats(ctx context.Context) (Stats, error)
	// Verify reads and checks everything, on all cores, and reports what is
	// damaged, one call at a time. Its own error is one that stopped it.
	Verify(ctx context.Context, report func(Problem)) error
}

// LiveSet tells a sweep what is alive. The store walks the directories itself.
type LiveSet interface {
	// Roots iterates over the root nodes of everything that must stay.
	Roots(ctx context.Context) iter.Seq2[Node, error]
}

// LiveNodes is a [LiveSet] of nodes in memory.
type LiveNodes []Node

// Roots iterates over the nodes.
func (l LiveNodes) Roots(context.Context) iter.Seq2[Node, error] {
	return func(yield func(Node, error) bool) {
		for _, n := range l {
			if !yield(n, nil) {
				return
			}
		}
	}
}

// SweepOptions says how thorough a sweep is. The zero value is a good default.
type SweepOptions struct {
	// DeadFraction is the part of a pack, from 0 to 1, that must be dead
	// before the pack is rewritten without its dead parts. 0 means the
	// implementation's choice; below 0 nothing is rewritten, and only packs
	// that are dead altogether give their space back.
	DeadFraction float64
	// Progress, if not nil, is called now and then with the number of bytes
	// given back so far.
	Progress func(freed uint64)
}

// SweepResult tells what a sweep did.
type SweepResult struct {
	// Live and Dropped count blobs, chunks and directories that stayed and
	// that went.
	Live, Dropped uint64
	// DroppedBytes is the sum of the lengths of what went, before compression.
	DroppedBytes uint64
	// FreedBytes is the space given back to the file system.
	FreedBytes uint64
}

// Stats describes the size of a store.
type Stats struct {
	// Objects counts blobs, chunks of blobs and directories.
	Objects uint64
	// ObjectBytes is the sum of their lengths, each counted once.
	ObjectBytes uint64
	// StoredBytes is the space that they take on the medium, dead parts
	// included.
	StoredBytes uint64
	// Packs counts the files that they are in, 0 for a store without files.
	Packs uint64
	// UnsyncedBytes is what would be lost if the process ended now.
	UnsyncedBytes uint64
}

// Problem is one damaged blob, directory or part of the medium.
type Problem struct {
	// Digest names what is damaged; zero if that cannot be told any more.
	Digest Digest
	// Where says in words which part of the medium it is.
	Where string
	// Err is the cause; it wraps [ErrCorrupt], or [ErrNotFound] for a part
	// that is missing.
	Err error
}
