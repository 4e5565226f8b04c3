package fuse

import (
	"context"
	"errors"
	"iter"
	"log/slog"

	"github.com/tvixd/tvixd/castore"
)

// ErrBusy says that something alive is mounted on the mount point already.
var ErrBusy = errors.New("mount point is busy")

// Roots are the entries of the root folder. All methods may be called
// concurrently; they are called while the kernel waits.
type Roots interface {
	// Lookup returns the node of an entry. The whole name must match; an error
	// that wraps [castore.ErrNotFound] means that there is no such entry.
	Lookup(ctx context.Context, name string) (castore.Node, error)
	// List iterates over all entries in any order. It is called only for a mount
	// with [Options.ListRoot]. A second value that is not nil ends the listing.
	List(ctx context.Context) iter.Seq2[castore.Entry, error]
}

// Castore is what a mount needs of a castore. Every [castore.Store] has it.
type Castore interface {
	Open(ctx context.Context, d castore.Digest) (castore.Blob, error)
	GetDirectory(ctx context.Context, d castore.Digest) (*castore.Directory, error)
}

// Options says what to mount and how. Mountpoint, Roots and Castore are needed.
type Options struct {
	// Mountpoint is an existing directory.
	Mountpoint string
	Roots      Roots
	Castore    Castore
	// ListRoot allows listing the root; without it that is EPERM.
	ListRoot bool
	// AllowOther lets other users than that of the server in.
	AllowOther bool
	// Xattr shows the digests of files and directories as extended attributes
	// user.tvix.castore.blob.digest and user.tvix.castore.directory.digest. It
	// costs each `ls -l` two requests an entry.
	Xattr bool
	// DistinctDirectories gives equal directories inode numbers of their own.
	DistinctDirectories bool
	// DataDir is a path on the disk that statfs tells of; empty: an empty disk.
	DataDir string
	// DirectoryCacheBytes bounds the decoded directories kept in memory; 0 is
	// 64 MiB. The one used last is kept whatever its size.
	DirectoryCacheBytes int64
	// OpenBlobs bounds the blobs kept open between two reads; 0 is 256.
	OpenBlobs int
	// Logger receives what cannot be told to the kernel; nil is [slog.Default].
	Logger *slog.Logger
}

const (
	defaultDirectoryCache = 64 << 20
	defaultOpenBlobs      = 256
)

func (o *Options) setDefaults() error {
	if o.Mountpoint == "" || o.Roots == nil || o.Castore == nil {
		return errors.New("mount store file system: mount point, roots and castore are needed")
	}
	if o.DirectoryCacheBytes == 0 {
		o.DirectoryCacheBytes = defaultDirectoryCache
	}
	if o.OpenBlobs == 0 {
		o.OpenBlobs = defaultOpenBlobs
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}
