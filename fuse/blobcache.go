package fuse

import (
	"container/list"
	"context"
	"sync"

	"github.com/tvixd/tvixd/castore"
)

// blobCache keeps blobs open between two reads: the kernel, which opens files by
// itself, does not tell when a file is closed. Of the blobs that nobody reads at
// the moment it keeps a number, those used last.
type blobCache struct {
	openBlob func(context.Context, castore.Digest) (castore.Blob, error)
	limit    int

	mu    sync.Mutex
	blobs map[castore.Digest]*cachedBlob // guarded by mu
	idle  list.List                      // of *cachedBlob without users, newest first; guarded by mu
}

type cachedBlob struct {
	castore.Blob
	digest  castore.Digest
	users   int           // guarded by blobCache.mu
	stale   bool          // closed by its last user; guarded by blobCache.mu
	element *list.Element // its place among the idle; guarded by blobCache.mu
}

func newBlobCache(c Castore, limit int) *blobCache {
	return &blobCache{openBlob: c.Open, limit: limit, blobs: map[castore.Digest]*cachedBlob{}}
}

// acquire returns an open blob, which must be released.
func (c *blobCache) acquire(ctx context.Context, d castore.Digest) (*cachedBlob, error) {
	if b := c.use(d, nil); b != nil {
		return b, nil
	}
	opened, err := c.openBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	return c.use(d, opened), nil
}

// use takes the cached blob or, if there is none, caches the opened one, which
// is not nil then. Of two opened at once, the second is closed again.
func (c *blobCache) use(d castore.Digest, opened castore.Blob) *cachedBlob {
	c.mu.Lock()
	b := c.blobs[d]
	switch {
	case b == nil && opened == nil:
		c.mu.Unlock()
		return nil
	case b == nil:
		b = &cachedBlob{Blob: opened, digest: d}
		c.blobs[d] = b
		opened = nil
	case b.element != nil:
		c.idle.Remove(b.element)
		b.element = nil
	}
	b.users++
	c.mu.Unlock()
	if opened != nil {
		_ = opened.Close()
	}
	return b
}

// release gives a blob back. One that failed is not kept: opening it again may
// find it healed.
func (c *blobCache) release(b *cachedBlob, failed bool) {
	c.mu.Lock()
	if failed {
		c.retire(b)
	}
	b.users--
	var closing []*cachedBlob
	switch {
	case b.users > 0:
	case b.stale:
		closing = append(closing, b)
	default:
		b.element = c.idle.PushFront(b)
		closing = c.trim(c.limit)
	}
	c.mu.Unlock()
	closeBlobs(closing)
}

// purge closes all blobs as soon as nobody reads them, so that they do not keep
// the space of what was collected.
func (c *blobCache) purge() {
	c.mu.Lock()
	closing := c.trim(0)
	for _, b := range c.blobs {
		c.retire(b)
	}
	c.mu.Unlock()
	closeBlobs(closing)
}

// trim takes the idle blobs beyond a number out of the cache; mu is held.
func (c *blobCache) trim(limit int) []*cachedBlob {
	var out []*cachedBlob
	for c.idle.Len() > limit {
		b := c.idle.Remove(c.idle.Back()).(*cachedBlob)
		b.element = nil
		c.retire(b)
		out = append(out, b)
	}
	return out
}

// retire lets nobody new use a blob; mu is held.
func (c *blobCache) retire(b *cachedBlob) {
	if !b.stale {
		b.stale = true
		delete(c.blobs, b.digest)
	}
}

func closeBlobs(blobs []*cachedBlob) {
	for _, b := range blobs {
		_ = b.Close()
	}
}
