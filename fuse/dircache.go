package fuse

import (
	"container/list"
	"context"
	"sync"
	"unsafe"

	"github.com/tvixd/tvixd/castore"
)

// dirCache keeps decoded directories, the ones used last, up to a number of
// bytes. Concurrent wants of one directory fetch it once. Directories in it are
// shared and never changed.
type dirCache struct {
	fetch func(context.Context, castore.Digest) (*castore.Directory, error)
	limit int64

	mu      sync.Mutex
	entries map[castore.Digest]*dirEntry // guarded by mu
	recent  list.List                    // of *dirEntry, newest first; guarded by mu
	bytes   int64                        // guarded by mu
}

// dirEntry is in the list once it is loaded.
type dirEntry struct {
	digest  castore.Digest
	loaded  chan struct{} // closed when dir or err is set
	dir     *castore.Directory
	err     error
	bytes   int64
	element *list.Element // guarded by dirCache.mu
}

func newDirCache(c Castore, limit int64) *dirCache {
	return &dirCache{fetch: c.GetDirectory, limit: limit, entries: map[castore.Digest]*dirEntry{}}
}

// get returns a directory. The context must not be one that ends with a single
// request, because others may wait for the same fetch.
func (c *dirCache) get(ctx context.Context, d castore.Digest) (*castore.Directory, error) {
	c.mu.Lock()
	e := c.entries[d]
	if e != nil {
		if e.element != nil {
			c.recent.MoveToFront(e.element)
		}
		c.mu.Unlock()
		<-e.loaded
		return e.dir, e.err
	}
	e = &dirEntry{digest: d, loaded: make(chan struct{}), err: errPanicked}
	c.entries[d] = e
	c.mu.Unlock()
	defer c.settle(e)
	e.dir, e.err = c.fetch(ctx, d)
	return e.dir, e.err
}

// settle makes a fetched directory one of the cache, or forgets a failed fetch.
// It runs after a panic of the fetch too, so that nobody waits for ever.
func (c *dirCache) settle(e *dirEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(e.loaded)
	if e.err != nil {
		delete(c.entries, e.digest)
		return
	}
	e.bytes = directoryBytes(e.dir)
	e.element = c.recent.PushFront(e)
	c.bytes += e.bytes
	for c.bytes > c.limit && c.recent.Len() > 1 {
		last := c.recent.Remove(c.recent.Back()).(*dirEntry)
		delete(c.entries, last.digest)
		c.bytes -= last.bytes
	}
}

// directoryBytes estimates what a decoded directory takes in memory.
func directoryBytes(d *castore.Directory) int64 {
	n := int64(len(d.Entries)) * int64(unsafe.Sizeof(castore.Entry{}))
	for i := range d.Entries {
		// The strings share the encoding, in which each entry also has a
		// digest and its tags.
		n += int64(len(d.Entries[i].Name)+len(d.Entries[i].Node.Target)) + 48
	}
	return n + 256
}
