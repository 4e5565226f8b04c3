package disk

import (
	"container/list"
	"sync"
)

// cache keeps decoded blocks, those used last, up to a number of bytes. A block
// that many want at once is loaded once. It is split into shards so that readers
// do not wait for each other.
type cache struct {
	shards [cacheShards]cacheShard
}

const cacheShards = 16

type cacheShard struct {
	mu      sync.Mutex
	limit   int64
	used    int64                  // guarded by mu
	entries map[uint64]*cacheEntry // guarded by mu
	lru     list.List              // of *cacheEntry that are loaded; guarded by mu
}

type cacheEntry struct {
	id    uint64
	elem  *list.Element // nil while loading; guarded by the shard's mu
	ready chan struct{}
	block *block // read after ready
	err   error  // read after ready
}

func newCache(limit int64) *cache {
	c := new(cache)
	for i := range c.shards {
		c.shards[i].limit = limit / cacheShards
		c.shards[i].entries = make(map[uint64]*cacheEntry)
	}
	return c
}

func (c *cache) shard(id uint64) *cacheShard { return &c.shards[id%cacheShards] }

// peek returns a block if it is loaded.
func (c *cache) peek(id uint64) *block {
	sh := c.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[id]
	if e == nil || e.elem == nil {
		return nil
	}
	sh.lru.MoveToFront(e.elem)
	return e.block
}

// get returns a block, loading it if need be. Errors are not kept.
func (c *cache) get(id uint64, load func() (*block, error)) (*block, error) {
	sh := c.shard(id)
	sh.mu.Lock()
	if e := sh.entries[id]; e != nil {
		if e.elem != nil {
			sh.lru.MoveToFront(e.elem)
		}
		sh.mu.Unlock()
		<-e.ready
		return e.block, e.err
	}
	e := &cacheEntry{id: id, ready: make(chan struct{})}
	sh.entries[id] = e
	sh.mu.Unlock()

	e.block, e.err = load()

	sh.mu.Lock()
	if e.err != nil || sh.entries[id] != e {
		if sh.entries[id] == e {
			delete(sh.entries, id)
		}
	} else {
		e.elem = sh.lru.PushFront(e)
		sh.used += e.block.size()
		sh.evict()
	}
	sh.mu.Unlock()
	close(e.ready)
	return e.block, e.err
}

// evict drops the blocks used least lately. The last one may stay even if it is
// larger than the limit.
func (sh *cacheShard) evict() {
	for sh.used > sh.limit && sh.lru.Len() > 1 {
		sh.remove(sh.lru.Back().Value.(*cacheEntry))
	}
}

func (sh *cacheShard) remove(e *cacheEntry) {
	sh.lru.Remove(e.elem)
	sh.used -= e.block.size()
	delete(sh.entries, e.id)
}

// drop forgets a block.
func (c *cache) drop(id uint64) {
	sh := c.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.entries[id]; e != nil {
		if e.elem != nil {
			sh.remove(e)
		} else {
			delete(sh.entries, id) // the loader finds out
		}
	}
}
