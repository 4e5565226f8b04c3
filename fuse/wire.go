package fuse

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// What the device itself must know of the protocol; see include/uapi/linux/fuse.h.

const (
	opLookup      = 1
	opForget      = 2
	opRead        = 15
	opGetXAttr    = 22
	opListXAttr   = 23
	opInit        = 26
	opReadDir     = 28
	opInterrupt   = 36
	opBmap        = 37
	opIoctl       = 39
	opPoll        = 40
	opBatchForget = 42
	opReadDirPlus = 44
	opCount       = 64 // higher ones are counted as the last
)

const (
	requestHeader = 40
	replyHeader   = 16
	// Places of fields: max_write in the reply to INIT, the size asked for in
	// READ, READDIR and READDIRPLUS, and in GETXATTR and LISTXATTR.
	initMaxWrite = replyHeader + 20
	readSize     = requestHeader + 16
	xattrSize    = requestHeader
	// smallReply has room for every reply without data, and for a symlink.
	smallReply = 8 << 10
)

// request is a message of the kernel: its bytes and a few fields of its header.
type request struct {
	bytes  []byte
	opcode uint32
	unique uint64
	node   uint64
}

func parseRequest(b []byte) (request, error) {
	if len(b) < requestHeader {
		return request{}, fmt.Errorf("request of %d bytes", len(b))
	}
	return request{
		bytes:  b,
		opcode: binary.NativeEndian.Uint32(b[4:]),
		unique: binary.NativeEndian.Uint64(b[8:]),
		node:   binary.NativeEndian.Uint64(b[16:]),
	}, nil
}

// name is the name in a LOOKUP.
func (r request) name() string {
	name, _, _ := bytes.Cut(r.bytes[requestHeader:], []byte{0})
	return string(name)
}

// replySize is the room that a reply may take.
func (r request) replySize() int {
	at := 0
	switch r.opcode {
	case opRead, opReadDir, opReadDirPlus:
		at = readSize
	case opGetXAttr, opListXAttr:
		at = xattrSize
	}
	if at == 0 || len(r.bytes) < at+4 {
		return smallReply
	}
	return smallReply + int(binary.NativeEndian.Uint32(r.bytes[at:]))
}

func errorReply(unique uint64, status gofuse.Status) []byte {
	b := make([]byte, replyHeader)
	binary.NativeEndian.PutUint32(b, replyHeader)
	binary.NativeEndian.PutUint32(b[4:], uint32(-status))
	binary.NativeEndian.PutUint64(b[8:], unique)
	return b
}

// Codes of notifications.
const (
	notifyInvalInode = 2
	notifyInvalEntry = 3
)

// invalidEntry tells the kernel to forget what a name means.
func invalidEntry(parent uint64, name string) []byte {
	b := notification(notifyInvalEntry, 16+len(name)+1)
	body := b[replyHeader:]
	binary.NativeEndian.PutUint64(body, parent)
	binary.NativeEndian.PutUint32(body[8:], uint32(len(name)))
	copy(body[16:], name)
	return b
}

// invalidAttr tells the kernel to ask for the attributes of a node again; its
// pages stay.
func invalidAttr(id uint64) []byte {
	b := notification(notifyInvalInode, 24)
	body := b[replyHeader:]
	binary.NativeEndian.PutUint64(body, id)
	binary.NativeEndian.PutUint64(body[8:], ^uint64(0)) // offset -1: no pages
	return b
}

func notification(code uint32, size int) []byte {
	b := make([]byte, replyHeader+size)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], code)
	return b
}

// bufferPools lends buffers for replies in a few sizes.
type bufferPools [3]sync.Pool

var bufferSizes = [...]int{smallReply, smallReply + 64<<10, smallReply + maxRead}

// get returns a buffer with at least n bytes, at most those of the largest size.
func (p *bufferPools) get(n int) *[]byte {
	i := 0
	for bufferSizes[i] < n {
		i++
	}
	if b, ok := p[i].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, bufferSizes[i])
	return &b
}

func (p *bufferPools) put(b *[]byte) {
	for i, size := range bufferSizes {
		if len(*b) == size {
			p[i].Put(b)
		}
	}
}
