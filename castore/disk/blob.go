package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/tvixd/tvixd/castore"
)

const errIO = syscall.EIO

// smallBlob is a blob that is one object. It keeps no bytes: the cache does.
type smallBlob struct {
	store  *Store
	digest castore.Digest
	size   uint64
	at     location // where it was when it was opened
}

func (b *smallBlob) Size() uint64 { return b.size }

func (b *smallBlob) Close() error { return nil }

func (b *smallBlob) bytes() ([]byte, error) {
	if b.size == 0 {
		return nil, nil
	}
	if err := b.store.enter(context.Background()); err != nil {
		return nil, err
	}
	defer b.store.leave()
	_, data, err := b.store.loadFrom(context.Background(), b.at, "blob", b.digest, nil)
	return data, err
}

func (b *smallBlob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read blob: negative offset")
	}
	if uint64(off) >= b.size {
		return 0, io.EOF
	}
	data, err := b.bytes()
	if err != nil {
		return 0, err
	}
	n := copy(p, data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (b *smallBlob) WriteTo(w io.Writer) (int64, error) {
	data, err := b.bytes()
	if err != nil {
		return 0, err
	}
	n, err := w.Write(data)
	return int64(n), err
}

// largeBlob is a blob in chunks.
type largeBlob struct {
	store  *Store
	digest castore.Digest
	size   uint64
	recipe recipe
	// last is the chunk read last: reads are often smaller than chunks and
	// follow each other.
	last atomic.Pointer[loadedChunk]
}

type loadedChunk struct {
	index int
	data  []byte
}

func (b *largeBlob) Size() uint64 { return b.size }

func (b *largeBlob) Close() error {
	b.last.Store(nil)
	return nil
}

func (b *largeBlob) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read blob: negative offset")
	}
	if err := b.store.enter(context.Background()); err != nil {
		return 0, err
	}
	defer b.store.leave()
	pos := uint64(off)
	for i := b.recipe.find(pos); n < len(p) && pos < b.size; i++ {
		chunk, err := b.chunk(i)
		if err != nil {
			return n, err
		}
		m := copy(p[n:], chunk[pos-b.recipe.start(i):])
		n += m
		pos += uint64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// chunk returns the bytes of a chunk.
func (b *largeBlob) chunk(i int) ([]byte, error) {
	if l := b.last.Load(); l != nil && l.index == i {
		return l.data, nil
	}
	data, err := b.loadChunk(i, nil)
	if err == nil {
		b.last.Store(&loadedChunk{i, data})
	}
	return data, err
}

// loadChunk reads a chunk, past the cache if there is a dst.
func (b *largeBlob) loadChunk(i int, dst []byte) ([]byte, error) {
	loc, data, err := b.store.load(context.Background(), "chunk", b.recipe.digest(i), dst)
	if errors.Is(err, castore.ErrNotFound) && b.store.swept(b.digest) {
		return nil, castore.NotFound("blob", b.digest)
	}
	if err != nil {
		return nil, chunkError("blob", b.digest, err)
	}
	// Ends that do not rise give a length that no chunk has.
	if loc.kind != KindData || uint64(len(data)) != b.recipe.end(i)-b.recipe.start(i) || len(data) == 0 {
		return nil, castore.Corrupt("blob", b.digest, fmt.Errorf("%w: recipe", errFormat))
	}
	return data, nil
}

// swept tells whether a blob is not there any more, or about to go.
func (s *Store) swept(d castore.Digest) bool {
	s.gate.RLock()
	defer s.gate.RUnlock()
	_, found, err := s.find(context.Background(), d)
	_, dead := s.condemned.objects[d]
	return err == nil && (!found || dead)
}

// chunkBufs holds buffers for chunks that are read past the cache.
var chunkBufs = sync.Pool{New: func() any {
	b := make([]byte, maxChunk)
	return &b
}}

// WriteTo reads chunks ahead, on several cores, and past the cache: what is
// read from end to end is seldom read again soon.
func (b *largeBlob) WriteTo(w io.Writer) (written int64, err error) {
	if err := b.store.enter(context.Background()); err != nil {
		return 0, err
	}
	defer b.store.leave()
	type result struct {
		buf  *[]byte
		data []byte
		err  error
	}
	ahead := b.store.opts.Workers + 1
	results := make(chan chan result, ahead-1)
	stop := make(chan struct{})
	var loads sync.WaitGroup
	loads.Add(1)
	go func() {
		defer loads.Done()
		defer close(results)
		for i := range b.recipe.chunks() {
			c := make(chan result, 1)
			select {
			case results <- c:
			case <-stop:
				return
			}
			loads.Add(1)
			go func() {
				defer loads.Done()
				buf := chunkBufs.Get().(*[]byte)
				data, err := b.loadChunk(i, *buf)
				c <- result{buf, data, err}
			}()
		}
	}()
	defer loads.Wait()
	defer close(stop)
	for c := range results {
		r := <-c
		if r.err == nil {
			var n int
			n, r.err = w.Write(r.data)
			written += int64(n)
		}
		chunkBufs.Put(r.buf)
		if r.err != nil {
			return written, r.err
		}
	}
	return written, nil
}
