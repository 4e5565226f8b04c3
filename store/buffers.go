package store

import (
	"bufio"
	"io"
	"math/bits"
	"sync"

	"github.com/tvixd/tvixd/nar"
)

// Buffers are pooled by powers of two from 4 KiB to maxSmall.
const (
	minBufferBits = 12
	maxBufferBits = 20
)

var bufferPools [maxBufferBits - minBufferBits + 1]sync.Pool

// getBuffer returns a buffer of n bytes with any contents.
func getBuffer(n int) []byte {
	class := bufferClass(n)
	if class >= len(bufferPools) {
		return make([]byte, n)
	}
	if p, ok := bufferPools[class].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<(class+minBufferBits))
}

// putBuffer gives back what getBuffer returned, or a shorter slice of it.
func putBuffer(b []byte) {
	class := bufferClass(cap(b))
	if class >= len(bufferPools) || cap(b) != 1<<(class+minBufferBits) {
		return
	}
	b = b[:0]
	bufferPools[class].Put(&b)
}

func bufferClass(n int) int {
	return max(bits.Len(uint(max(n, 1)-1))-minBufferBits, 0)
}

// pooledReader is a NAR reader with the buffer that it brings along for
// sources that have none.
type pooledReader struct {
	*nar.Reader
	buf *bufio.Reader
}

var readerPool = sync.Pool{New: func() any {
	b := bufio.NewReaderSize(nil, 64<<10)
	return &pooledReader{Reader: nar.NewReader(b), buf: b}
}}

func getReader(r io.Reader) *pooledReader {
	p := readerPool.Get().(*pooledReader)
	if own, ok := r.(*bufio.Reader); ok {
		p.Reset(own)
		return p
	}
	p.buf.Reset(r)
	p.Reset(p.buf)
	return p
}

func putReader(p *pooledReader) {
	p.buf.Reset(nil)
	p.Reset(p.buf)
	readerPool.Put(p)
}
