package fuse

import (
	"context"
	"math"
	"sort"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore"
)

// fileSystem answers the requests of the kernel. What is not here is answered
// with ENOSYS by the default implementation or with EROFS (readonly.go).
type fileSystem struct {
	gofuse.RawFileSystem

	// ctx ends with the server. Requests have none of their own: an interrupted
	// system call is finished and answered, because a Go program, which
	// interrupts itself all the time, would see EINTR from a plain file.
	ctx   context.Context
	opts  *Options
	root  *rootFolder
	nodes nodeTable
	dirs  *dirCache
	blobs *blobCache

	complaints throttle
}

var _ gofuse.RawFileSystem = (*fileSystem)(nil)

func newFileSystem(ctx context.Context, o *Options) *fileSystem {
	return &fileSystem{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(),
		ctx:           ctx,
		opts:          o,
		root:          newRootFolder(o.Roots),
		nodes:         newMemoryTable(),
		dirs:          newDirCache(o.Castore, o.DirectoryCacheBytes),
		blobs:         newBlobCache(o.Castore, o.OpenBlobs),
	}
}

func (f *fileSystem) String() string { return "tvixd" }

// Lookup finds an entry of a directory.
func (f *fileSystem) Lookup(_ <-chan struct{}, in *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	if len(name) > castore.MaxNameLen {
		return gofuse.Status(syscall.ENAMETOOLONG)
	}
	if in.NodeId == rootID {
		c, err := f.opts.Roots.Lookup(f.ctx, name)
		if err != nil {
			// No answer to keep: the name may come into being at any time.
			return f.rootError(name, err)
		}
		n := f.newNode(&c, rootID, rootID, 0, name)
		f.fillEntry(out, &n)
		return gofuse.OK
	}
	n, dir, status := f.directory(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	i := sort.Search(len(dir.Entries), func(i int) bool { return dir.Entries[i].Name >= name })
	if i == len(dir.Entries) || dir.Entries[i].Name != name {
		// Node number 0 says that there is no such entry, and will not be.
		out.EntryValid = forever
		return gofuse.OK
	}
	child := f.newNode(&dir.Entries[i].Node, in.NodeId, n.ino, i, "")
	f.fillEntry(out, &child)
	return gofuse.OK
}

// Forget takes back references that the kernel got from lookups and listings.
func (f *fileSystem) Forget(id, references uint64) {
	if id != rootID {
		f.nodes.forget(id, references)
	}
}

// GetAttr is asked for the root after each change, and for others only if the
// kernel has lost what it was told.
func (f *fileSystem) GetAttr(_ <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	out.AttrValid = forever
	if in.NodeId == rootID {
		f.fillRootAttr(&out.Attr)
		return gofuse.OK
	}
	n, ok := f.nodes.get(in.NodeId)
	if !ok {
		return estale
	}
	fillAttr(&out.Attr, &n)
	return gofuse.OK
}

// Readlink returns the target of a symlink; the kernel keeps it.
func (f *fileSystem) Readlink(_ <-chan struct{}, in *gofuse.InHeader) ([]byte, gofuse.Status) {
	n, ok := f.nodes.get(in.NodeId)
	switch {
	case in.NodeId == rootID:
		return nil, gofuse.EINVAL
	case !ok:
		return nil, estale
	case n.kind != castore.KindSymlink:
		return nil, gofuse.EINVAL
	}
	return []byte(n.text), gofuse.OK
}

// StatFs tells of the disk on which the store's data is.
func (f *fileSystem) StatFs(_ <-chan struct{}, _ *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	var st syscall.Statfs_t
	if f.opts.DataDir != "" {
		if err := syscall.Statfs(f.opts.DataDir, &st); err != nil {
			return gofuse.ToStatus(err)
		}
		out.FromStatfsT(&st)
	} else {
		out.Bsize, out.Frsize = blockSize, blockSize
	}
	out.NameLen = castore.MaxNameLen
	return gofuse.OK
}

// directory returns a node and the directory that it shows.
func (f *fileSystem) directory(id uint64) (node, *castore.Directory, gofuse.Status) {
	n, ok := f.nodes.get(id)
	if !ok {
		return node{}, nil, estale
	}
	if n.kind != castore.KindDirectory {
		return node{}, nil, gofuse.ENOTDIR
	}
	dir, err := f.dirs.get(f.ctx, n.digest)
	if err != nil {
		return node{}, nil, f.contentError(&n, err)
	}
	return n, dir, gofuse.OK
}

// forever in seconds; the kernel cuts it to what it can count.
const forever = math.MaxInt32

// fillEntry answers a lookup and counts it.
func (f *fileSystem) fillEntry(out *gofuse.EntryOut, n *node) {
	out.NodeId, out.Generation = f.nodes.remember(n)
	out.EntryValid, out.AttrValid = forever, forever
	fillAttr(&out.Attr, n)
}
