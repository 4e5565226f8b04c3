package fuse

import (
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore"
)

const (
	xattrBlob      = "user.tvix.castore.blob.digest"
	xattrDirectory = "user.tvix.castore.directory.digest"
)

// GetXAttr returns the digest of a file or directory. It is called only for a
// mount with extended attributes.
func (f *fileSystem) GetXAttr(_ <-chan struct{}, in *gofuse.InHeader, attr string, dest []byte) (uint32, gofuse.Status) {
	name, value, status := f.digestAttr(in.NodeId)
	if status != gofuse.OK {
		return 0, status
	}
	if name == "" || attr != name {
		return 0, gofuse.ENOATTR
	}
	return reply(dest, value)
}

// ListXAttr returns the name of the attribute, if there is one.
func (f *fileSystem) ListXAttr(_ <-chan struct{}, in *gofuse.InHeader, dest []byte) (uint32, gofuse.Status) {
	name, _, status := f.digestAttr(in.NodeId)
	if status != gofuse.OK || name == "" {
		return 0, status
	}
	return reply(dest, name+"\x00")
}

// digestAttr returns the attribute of a node; its name is empty for a node that
// has none.
func (f *fileSystem) digestAttr(id uint64) (name, value string, status gofuse.Status) {
	if id == rootID {
		return "", "", gofuse.OK
	}
	n, ok := f.nodes.get(id)
	if !ok {
		return "", "", estale
	}
	switch n.kind {
	case castore.KindFile:
		return xattrBlob, n.digest.String(), gofuse.OK
	case castore.KindDirectory:
		return xattrDirectory, n.digest.String(), gofuse.OK
	default:
		return "", "", gofuse.OK
	}
}

// reply puts an answer into a buffer; ERANGE asks for one of the size returned.
func reply(dest []byte, answer string) (uint32, gofuse.Status) {
	if len(dest) < len(answer) {
		return uint32(len(answer)), gofuse.ERANGE
	}
	return uint32(copy(dest, answer)), gofuse.OK
}
