// Package memory is a castore in memory: for tests, for scratch work, and as
// the reference of how a castore behaves.
package memory

import (
	"bytes"
	"context"
	"hash"
	"io"
	"sync"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/internal/holds"
)

// Store keeps blobs and directories in a map. Nothing survives it.
type Store struct {
	holds   holds.Set
	sweepMu sync.Mutex // one sweep at a time; taken before mu

	mu      sync.RWMutex
	objects map[castore.Digest][]byte // guarded by mu; values never change
	bytes   uint64                    // guarded by mu
	closed  bool                      // guarded by mu
}

var _ castore.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{objects: make(map[castore.Digest][]byte)}
}

// Has implements [castore.BlobService].
func (s *Store) Has(ctx context.Context, digests []castore.Digest) ([]bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, castore.ErrClosed
	}
	has := make([]bool, len(digests))
	for i, d := range digests {
		if _, has[i] = s.objects[d]; has[i] {
			s.holds.Touch(d)
		}
		has[i] = has[i] || d == castore.EmptyDigest
	}
	return has, nil
}

// get returns the bytes of an object, which must not be changed.
func (s *Store) get(ctx context.Context, kind string, d castore.Digest) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, castore.ErrClosed
	}
	data, ok := s.objects[d]
	if !ok && d != castore.EmptyDigest {
		return nil, castore.NotFound(kind, d)
	}
	return data, nil
}

// put stores data, which it keeps, under its digest.
func (s *Store) put(d castore.Digest, data []byte, dir bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return castore.ErrClosed
	}
	if dir {
		s.holds.TouchDirectory(d)
	} else {
		s.holds.Touch(d)
	}
	if _, ok := s.objects[d]; !ok && len(data) > 0 {
		s.objects[d] = data
		s.bytes += uint64(len(data))
	}
	return nil
}

// Open implements [castore.BlobService].
func (s *Store) Open(ctx context.Context, d castore.Digest) (castore.Blob, error) {
	data, err := s.get(ctx, "blob", d)
	if err != nil {
		return nil, err
	}
	return blob{data}, nil
}

// PutBlob implements [castore.BlobService].
func (s *Store) PutBlob(ctx context.Context, data []byte) (castore.Digest, error) {
	if err := ctx.Err(); err != nil {
		return castore.Digest{}, err
	}
	d := castore.Sum(data)
	return d, s.put(d, bytes.Clone(data), false)
}

// Create implements [castore.BlobService].
func (s *Store) Create(ctx context.Context) (castore.BlobWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &writer{ctx: ctx, store: s, hasher: castore.NewHasher()}, nil
}

// GetDirectory implements [castore.DirectoryService].
func (s *Store) GetDirectory(ctx context.Context, d castore.Digest) (*castore.Directory, error) {
	data, err := s.get(ctx, "directory", d)
	if err != nil {
		return nil, err
	}
	dir, err := castore.DecodeDirectory(data)
	if err != nil {
		// The bytes are those of a blob that is no directory.
		return nil, castore.NotFound("directory", d)
	}
	return dir, nil
}

// PutDirectory implements [castore.DirectoryService].
func (s *Store) PutDirectory(ctx context.Context, dir *castore.Directory) (castore.Digest, error) {
	if err := ctx.Err(); err != nil {
		return castore.Digest{}, err
	}
	if err := dir.Validate(); err != nil {
		return castore.Digest{}, err
	}
	data := dir.Encode()
	d := castore.Sum(data)
	return d, s.put(d, data, true)
}

// Close implements [io.Closer]. It drops everything.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.objects = nil
	return nil
}

// blob reads the bytes of an object.
type blob struct{ data []byte }

func (b blob) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(b.data).ReadAt(p, off)
}

func (b blob) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b.data)
	return int64(n), err
}

func (b blob) Size() uint64 { return uint64(len(b.data)) }

func (b blob) Close() error { return nil }

// writer gathers a blob.
type writer struct {
	ctx    context.Context
	store  *Store
	hasher hash.Hash
	buf    bytes.Buffer
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	w.hasher.Write(p)
	return w.buf.Write(p)
}

func (w *writer) Commit() (castore.Digest, uint64, error) {
	if err := w.ctx.Err(); err != nil {
		return castore.Digest{}, 0, err
	}
	d := castore.Digest(w.hasher.Sum(nil))
	data := w.buf.Bytes()
	return d, uint64(len(data)), w.store.put(d, data, false)
}

func (w *writer) Abort() error { return nil }
