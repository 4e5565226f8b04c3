package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore"
)

const (
	blockSize = 4096
	// storeTime is the time of everything in a Nix store, in seconds.
	storeTime = 1
)

func modeOf(n *node) uint32 {
	switch {
	case n.kind == castore.KindDirectory:
		return syscall.S_IFDIR | 0o555
	case n.kind == castore.KindSymlink:
		return syscall.S_IFLNK | 0o777
	case n.executable:
		return syscall.S_IFREG | 0o555
	default:
		return syscall.S_IFREG | 0o444
	}
}

// fillAttr describes a node. The link count of a directory is 1, which tells
// find and its like that the number of subdirectories cannot be had from it.
func fillAttr(a *gofuse.Attr, n *node) {
	*a = gofuse.Attr{
		Ino:   n.ino,
		Size:  n.size,
		Atime: storeTime, Mtime: storeTime, Ctime: storeTime,
		Mode:    modeOf(n),
		Nlink:   1,
		Blksize: blockSize,
	}
	if n.kind == castore.KindFile {
		a.Blocks = (n.size + blockSize - 1) / blockSize * (blockSize / 512)
	}
}

func (f *fileSystem) fillRootAttr(a *gofuse.Attr) {
	const nanoseconds = 1e9
	changed := uint64(f.root.modified())
	sec, nsec := changed/nanoseconds, uint32(changed%nanoseconds)
	*a = gofuse.Attr{
		Ino:   rootID,
		Atime: sec, Mtime: sec, Ctime: sec,
		Atimensec: nsec, Mtimensec: nsec, Ctimensec: nsec,
		Mode:    syscall.S_IFDIR | 0o555,
		Nlink:   1,
		Blksize: blockSize,
	}
}
