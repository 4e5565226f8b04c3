package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the algorithm

	"github.com/tvixd/tvixd/castore"
)

// Parameters of the chunking. To change them costs nothing but the
// deduplication against what was stored before.
const (
	chunkAlgorithm = "fastcdc-v1.0.0"
	chunkMin       = 128 << 10
	chunkNormal    = 256 << 10
	chunkMax       = maxChunk
)

// scanBufs holds the buffers in which blobs are gathered and chunks are found.
var scanBufs = sync.Pool{New: func() any {
	b := make([]byte, maxObject)
	return &b
}}

var errAborted = errors.New("blob writer was aborted")

// writer receives one blob. It gathers bytes until there are too many for a
// single object; from then on a goroutine cuts them into chunks, which the
// workers store, while the writer's own goroutine hashes the whole.
type writer struct {
	ctx   context.Context
	store *Store
	buf   *[]byte // from scanBufs; nil once chunking
	n     int     // bytes in buf
	size  uint64
	state error // why the writer cannot be used any more
	// Only when chunking:
	hasher hash.Hash
	feed   chan []byte
	eaten  chan struct{} // the chunker is done with what it was fed
	cutter chan struct{} // closed when the chunker has ended
	slots  chan struct{} // bounds the chunks on their way
	recipe *recipeBuilder
}

// Create implements [castore.BlobService].
func (s *Store) Create(ctx context.Context) (castore.BlobWriter, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	return &writer{ctx: ctx, store: s, buf: scanBufs.Get().(*[]byte)}, nil
}

// Write implements [io.Writer].
func (w *writer) Write(p []byte) (int, error) {
	if err := w.usable(); err != nil {
		return 0, err
	}
	if w.buf != nil {
		if w.n+len(p) <= maxObject {
			copy((*w.buf)[w.n:], p)
			w.n += len(p)
			w.size += uint64(len(p))
			return len(p), nil
		}
		w.startChunking()
		if err := w.chew((*w.buf)[:w.n]); err != nil {
			return 0, err
		}
		scanBufs.Put(w.buf)
		w.buf = nil
	}
	if err := w.chew(p); err != nil {
		return 0, err
	}
	w.size += uint64(len(p))
	return len(p), nil
}

func (w *writer) usable() error {
	if w.state != nil {
		return w.state
	}
	if w.store.calls.isClosed() {
		return castore.ErrClosed
	}
	return w.ctx.Err()
}

func (w *writer) startChunking() {
	w.hasher = castore.NewHasher()
	w.feed = make(chan []byte)
	w.eaten = make(chan struct{}, 1)
	w.cutter = make(chan struct{})
	w.slots = make(chan struct{}, w.store.opts.Workers+2)
	w.recipe = new(recipeBuilder)
	go w.cut()
}

// chew hashes p while the chunker reads it.
func (w *writer) chew(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	select {
	case w.feed <- p:
	case <-w.cutter:
		return w.fail()
	}
	w.hasher.Write(p)
	select {
	case <-w.eaten:
		return nil
	case <-w.cutter:
		return w.fail()
	}
}

// fail ends the writer because the chunker has given up.
func (w *writer) fail() error {
	w.recipe.wg.Wait()
	w.state = fmt.Errorf("write blob: %w", w.recipe.err)
	return w.state
}

// feedReader is the chunker's side of the feed.
type feedReader struct {
	w   *writer
	cur []byte
}

func (r *feedReader) Read(p []byte) (int, error) {
	if len(r.cur) == 0 {
		var ok bool
		if r.cur, ok = <-r.w.feed; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, r.cur)
	if r.cur = r.cur[n:]; len(r.cur) == 0 {
		r.w.eaten <- struct{}{}
	}
	return n, nil
}

// cut runs in a goroutine of its own: it cuts what is fed into chunks and hands
// them to the workers, until the feed ends or something fails.
func (w *writer) cut() {
	defer close(w.cutter)
	buf := scanBufs.Get().(*[]byte)
	defer scanBufs.Put(buf)
	chunker, err := chunkers.NewChunkerBuffer(chunkAlgorithm, &feedReader{w: w},
		&chunkers.ChunkerOpts{MinSize: chunkMin, NormalSize: chunkNormal, MaxSize: chunkMax}, *buf)
	if err != nil {
		w.recipe.fail(err)
		return
	}
	for {
		chunk, err := chunker.Next()
		if len(chunk) > 0 && !w.storeChunk(chunk) {
			return
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			w.recipe.fail(err)
			return
		}
	}
}

// storeChunk has a worker store a copy of a chunk. It returns false when the
// blob has failed.
func (w *writer) storeChunk(chunk []byte) bool {
	slot, ok := w.recipe.next(len(chunk))
	if !ok {
		return false
	}
	s := w.store
	if err := s.admit(w.ctx); err != nil {
		w.recipe.fail(err)
		return false
	}
	data := cloneBuf(chunk)
	w.slots <- struct{}{}
	w.recipe.wg.Add(1)
	job := func() {
		defer func() {
			<-w.slots
			w.recipe.wg.Done()
		}()
		d := castore.Sum(data)
		if err := s.putOwn(w.ctx, d, KindData, uint64(len(data)), data); err != nil {
			w.recipe.fail(err)
			return
		}
		w.recipe.set(slot, d)
	}
	select {
	case s.jobs <- job:
		return true
	case <-s.stop:
		<-w.slots
		w.recipe.wg.Done()
		w.recipe.fail(castore.ErrClosed)
		return false
	}
}

// putOwn stores an object as a block of its own, in the calling goroutine, which
// may be a worker. It keeps raw.
func (s *Store) putOwn(ctx context.Context, d castore.Digest, kind Kind, length uint64, raw []byte) error {
	present, err := s.present(ctx, d, false)
	if err != nil || present {
		putBuf(raw)
		return err
	}
	b := s.addOwn(d, kind, length, raw)
	if b == nil {
		putBuf(raw)
		return nil
	}
	return s.store(b)
}

// Commit implements [castore.BlobWriter].
func (w *writer) Commit() (castore.Digest, uint64, error) {
	if err := w.usable(); err != nil {
		w.Abort()
		return castore.Digest{}, 0, err
	}
	if err := w.store.enter(w.ctx); err != nil {
		w.Abort()
		return castore.Digest{}, 0, err
	}
	defer w.store.leave()
	defer func() { w.state = errAborted }()
	if w.buf != nil {
		data := (*w.buf)[:w.n]
		d := castore.Sum(data)
		err := w.store.put(w.ctx, d, data, false)
		scanBufs.Put(w.buf)
		w.buf = nil
		if err != nil {
			return castore.Digest{}, 0, fmt.Errorf("commit blob: %w", err)
		}
		return d, w.size, nil
	}
	w.endFeed()
	if err := w.recipe.err; err != nil {
		return castore.Digest{}, 0, fmt.Errorf("commit blob: %w", err)
	}
	d := castore.Digest(w.hasher.Sum(nil))
	if err := w.store.admit(w.ctx); err != nil {
		return castore.Digest{}, 0, fmt.Errorf("commit blob: %w", err)
	}
	if err := w.store.putOwn(w.ctx, d, KindRecipe, w.size, w.recipe.entries); err != nil {
		return castore.Digest{}, 0, fmt.Errorf("commit blob: %w", err)
	}
	return d, w.size, nil
}

// endFeed waits until all chunks are stored, or have failed.
func (w *writer) endFeed() {
	close(w.feed)
	<-w.cutter
	w.recipe.wg.Wait()
}

// Abort implements [castore.BlobWriter].
func (w *writer) Abort() error {
	if w.state == errAborted {
		return nil
	}
	w.state = errAborted
	if w.buf != nil {
		scanBufs.Put(w.buf)
		w.buf = nil
		return nil
	}
	w.recipe.fail(errAborted)
	w.endFeed()
	return nil
}

// recipeBuilder gathers the chunks of a blob, in order, as they are stored in
// any order.
type recipeBuilder struct {
	wg sync.WaitGroup // chunks on their way

	mu      sync.Mutex
	entries []byte // the recipe; guarded by mu until wg is done
	end     uint64 // guarded by mu
	err     error  // the first; guarded by mu until wg is done
}

// next makes an entry for a chunk; false if the blob has failed.
func (r *recipeBuilder) next(length int) (slot int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && len(r.entries)+recipeEntrySize > maxRaw {
		r.err = fmt.Errorf("blob too large")
	}
	if r.err != nil {
		return 0, false
	}
	slot = len(r.entries)
	r.end += uint64(length)
	r.entries = append(r.entries, make([]byte, castore.DigestSize)...)
	r.entries = binary.LittleEndian.AppendUint64(r.entries, r.end)
	return slot, true
}

func (r *recipeBuilder) set(slot int, d castore.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.entries[slot:], d[:])
}

func (r *recipeBuilder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}
