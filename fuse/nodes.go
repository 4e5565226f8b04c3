package fuse

import (
	"encoding/binary"
	"hash/fnv"
	"strings"

	"github.com/tvixd/tvixd/castore"
)

// rootID is the node number of the root, given by the protocol, and its inode
// number too.
const rootID = 1

// node is what the file system must remember of a node number that the kernel
// knows. It is small, because the kernel may know millions.
type node struct {
	kind       castore.NodeKind
	executable bool
	index      uint32 // directory: its place among the entries of its parent
	digest     castore.Digest
	size       uint64
	parent     uint64 // the directory in which it was looked up last
	ino        uint64
	text       string // target of a symlink; else the name of an entry of the root
}

// nodeTable gives numbers to nodes. A number is valid from the remember that
// returns it until as many references were forgotten as were remembered.
type nodeTable interface {
	// remember finds or makes the number of a node and counts a reference to
	// it. Two uses of one number for different nodes differ in the generation.
	remember(n *node) (id, generation uint64)
	// get returns the node of a number.
	get(id uint64) (node, bool)
	// forget takes references back.
	forget(id, references uint64)
	// len is the number of nodes that are remembered.
	len() int
}

// newNode makes the node of an entry. The index is its place in the parent
// directory; the name is that of an entry of the root and empty elsewhere.
func (f *fileSystem) newNode(c *castore.Node, parentID, parentIno uint64, index int, name string) node {
	n := node{
		kind:       c.Kind,
		executable: c.Executable,
		digest:     c.Digest,
		size:       c.Size,
		parent:     parentID,
		ino:        f.inode(c, parentIno, index, name),
	}
	switch c.Kind {
	case castore.KindSymlink:
		// A copy, because the target shares memory with its whole directory.
		n.text, n.size = strings.Clone(c.Target), uint64(len(c.Target))
	case castore.KindDirectory:
		n.index, n.text = uint32(index), name
	default:
		n.text = name
	}
	return n
}

// The two lowest bits of an inode number tell the kind, so that a file and an
// executable of equal bytes differ, as do a file and a directory.
const (
	inoFile = iota
	inoExecutable
	inoSymlink
	inoDirectory
)

// inode derives the number that stat shows: from the contents or, for distinct
// directories, from the number of the parent and the place there.
func (f *fileSystem) inode(c *castore.Node, parentIno uint64, index int, name string) uint64 {
	content := binary.LittleEndian.Uint64(c.Digest[:])
	switch {
	case c.Kind == castore.KindSymlink:
		return foldInode(fnv64(c.Target), inoSymlink)
	case c.Kind == castore.KindDirectory && f.opts.DistinctDirectories:
		place := mix64(parentIno) + uint64(index)
		if name != "" {
			place = fnv64(name)
		}
		return foldInode(mix64(place)^content, inoDirectory)
	case c.Kind == castore.KindDirectory:
		return foldInode(content, inoDirectory)
	case c.Executable:
		return foldInode(content, inoExecutable)
	default:
		return foldInode(content, inoFile)
	}
}

// foldInode keeps numbers positive for those who read them as signed, and
// leaves the smallest to the root.
func foldInode(h, kind uint64) uint64 {
	h &^= 1<<63 | 3
	if h == 0 {
		h = 4
	}
	return h | kind
}

// mix64 spreads a number over 64 bits (the finaliser of SplitMix64).
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func fnv64(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return mix64(h.Sum64())
}
