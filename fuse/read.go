package fuse

import (
	"errors"
	"fmt"
	"io"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore"
)

// Read fills the reply's own buffer with bytes of a blob.
func (f *fileSystem) Read(_ <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	n, ok := f.nodes.get(in.NodeId)
	switch {
	case in.NodeId == rootID || ok && n.kind == castore.KindDirectory:
		return nil, gofuse.EISDIR
	case !ok:
		return nil, estale
	case n.kind != castore.KindFile:
		return nil, gofuse.EINVAL
	case in.Offset >= n.size:
		return filled(nil), gofuse.OK
	}
	buf = buf[:min(uint64(len(buf)), n.size-in.Offset)]
	if err := f.readBlob(&n, buf, int64(in.Offset)); err != nil {
		return nil, f.contentError(&n, err)
	}
	return filled(buf), gofuse.OK
}

func (f *fileSystem) readBlob(n *node, buf []byte, offset int64) error {
	b, err := f.blobs.acquire(f.ctx, n.digest)
	if err != nil {
		return err
	}
	if b.Size() != n.size {
		f.blobs.release(b, false)
		return fmt.Errorf("%w: blob has %d bytes, its directory says %d", castore.ErrCorrupt, b.Size(), n.size)
	}
	read, err := b.ReadAt(buf, offset)
	if read == len(buf) {
		err = nil
	} else if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: blob ends early", castore.ErrCorrupt)
	}
	f.blobs.release(b, err != nil)
	return err
}

// filled is a read result that is in the reply's buffer already.
type filled []byte

// Bytes returns the result.
func (r filled) Bytes([]byte) ([]byte, gofuse.Status) { return r, gofuse.OK }

// Size returns the length of the result.
func (r filled) Size() int { return len(r) }

// Done does nothing: the buffer belongs to the reply.
func (r filled) Done() {}

// Readv puts the result into the reply, which has to copy only if it comes in
// several pieces.
func (r filled) Readv(dst [][]byte) (int, gofuse.Status) {
	if len(r) > 0 && len(dst) > 0 && len(dst[0]) > 0 && &dst[0][0] == &r[0] {
		return len(r), gofuse.OK
	}
	n := 0
	for _, d := range dst {
		n += copy(d, r[n:])
	}
	return n, gofuse.OK
}
