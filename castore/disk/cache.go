package disk

import (
	"container/list"
	"sync"

	"github.com/tvixd/tvixd/castore"
)

// cache keeps decoded blocks, those used last, up to a number of bytes. A block
// that many want at once is loaded once. It is split into shards so that readers
// do not wait for each other.
//
// What is in one block is mostly read together, so the cache also tells where the
// objects in its blocks are, and saves the look-up in the index. Blocks with
// holes, of which some objects were swept, are left out of that.
type cache struct {
	shards [cacheShards]cacheShard
	names  [cacheShards]nameShard
}

// nameShard finds cached objects by the first bits of their digests. It is locked
// after a cacheShard.
type nameShard struct {
	mu   sync.RWMutex
	refs map[uint64]nameRef // guarded by mu
}

type nameRef struct {
	block uint64
	slot  uint32
}

const cacheShards = 16

type cacheShard struct {
	mu      sync.Mutex
	limit   int64
	used    int64                  // guarded by mu
	entries map[uint64]*cacheEntry // guarded by mu
	lru     list.List              // of *cacheEntry that are loaded; guarded by mu
	holed   map[uint64]struct{}    // blocks that got holes; guarded by mu
}

type cacheEntry struct {
	id    uint64
	at    place
	elem  *list.Element // nil while loading; guarded by the shard's mu
	named bool          // its objects are in names; guarded by the shard's mu
	ready chan struct{}
	block *block // read after ready
	err   error  // read after ready
}

func newCache(limit int64) *cache {
	c := new(cache)
	for i := range c.shards {
		c.shards[i].limit = limit / cacheShards
		c.shards[i].entries = make(map[uint64]*cacheEntry)
		c.shards[i].holed = make(map[uint64]struct{})
		c.names[i].refs = make(map[uint64]nameRef)
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

// get returns the block at a location, loading it if need be. Errors are not kept.
func (c *cache) get(loc *location, load func() (*block, error)) (*block, error) {
	id := loc.block
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
	e := &cacheEntry{id: id, at: loc.at, ready: make(chan struct{})}
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
		if _, holed := sh.holed[id]; !holed && !loc.holes {
			c.addNames(e)
		}
		c.evict(sh)
	}
	sh.mu.Unlock()
	close(e.ready)
	return e.block, e.err
}

// evict drops the blocks used least lately. The last one may stay even if it is
// larger than the limit.
func (c *cache) evict(sh *cacheShard) {
	for sh.used > sh.limit && sh.lru.Len() > 1 {
		c.remove(sh, sh.lru.Back().Value.(*cacheEntry))
	}
}

func (c *cache) remove(sh *cacheShard, e *cacheEntry) {
	sh.lru.Remove(e.elem)
	sh.used -= e.block.size()
	delete(sh.entries, e.id)
	c.removeNames(e)
}

// drop forgets a block.
func (c *cache) drop(id uint64) {
	sh := c.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.entries[id]; e != nil {
		if e.elem != nil {
			c.remove(sh, e)
		} else {
			delete(sh.entries, id) // the loader finds out
		}
	}
}

// punch takes note that objects in a block are swept from now on.
func (c *cache) punch(id uint64) {
	sh := c.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.holed[id] = struct{}{}
	if e := sh.entries[id]; e != nil && e.elem != nil {
		c.removeNames(e)
	}
}

// forget drops a block that does not exist any more.
func (c *cache) forget(id uint64) {
	c.drop(id)
	sh := c.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.holed, id)
}

// shardOf is the place of a digest in the index by names.
func (c *cache) shardOf(d castore.Digest) (*nameShard, uint64) {
	key := digestKey(d)[0]
	return &c.names[key%cacheShards], key
}

// addNames makes the objects of a block known. The caller holds the mu of its
// shard.
func (c *cache) addNames(e *cacheEntry) {
	e.named = true
	for slot := range e.block.table {
		sh, key := c.shardOf(e.block.table[slot].digest)
		sh.mu.Lock()
		sh.refs[key] = nameRef{e.id, uint32(slot)}
		sh.mu.Unlock()
	}
}

func (c *cache) removeNames(e *cacheEntry) {
	if !e.named {
		return
	}
	e.named = false
	for slot := range e.block.table {
		sh, key := c.shardOf(e.block.table[slot].digest)
		sh.mu.Lock()
		if sh.refs[key] == (nameRef{e.id, uint32(slot)}) {
			delete(sh.refs, key)
		}
		sh.mu.Unlock()
	}
}

// locate returns where an object is, if it is in a block in the cache.
func (c *cache) locate(d castore.Digest) (location, bool) {
	names, key := c.shardOf(d)
	names.mu.RLock()
	ref, ok := names.refs[key]
	names.mu.RUnlock()
	if !ok {
		return location{}, false
	}
	sh := c.shard(ref.block)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[ref.block]
	if e == nil || e.elem == nil || !e.named || e.block.table[ref.slot].digest != d {
		return location{}, false
	}
	return location{
		block: e.id,
		slot:  ref.slot,
		kind:  e.block.kind,
		size:  e.block.table[ref.slot].length,
		at:    e.at,
	}, true
}
