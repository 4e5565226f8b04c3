package disk

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

func TestDigestSet(t *testing.T) {
	s := newDigestSet()
	const n = 5000
	for i := range n {
		d := castore.Sum([]byte{byte(i), byte(i >> 8)})
		if !s.add(d) || s.add(d) {
			t.Fatalf("member %d", i)
		}
	}
	if !s.add(castore.Digest{}) || s.add(castore.Digest{}) || !s.has(castore.Digest{31: 1}) {
		t.Error("the digest that begins with zeros")
	}
	for i := range 2 * n {
		if s.has(castore.Sum([]byte{byte(i), byte(i >> 8)})) != (i < n) {
			t.Fatalf("has is wrong for %d", i)
		}
	}
}

func TestCache(t *testing.T) {
	c := newCache(cacheShards * 1000)
	loads := 0
	load := func() (*block, error) { loads++; return newBlock(KindRecipe, nil, make([]byte, 300)), nil }
	// Ids of one shard.
	for i := range uint64(4) {
		c.get(&location{block: i * cacheShards}, load)
	}
	if c.peek(0) != nil || c.peek(3*cacheShards) == nil || loads != 4 {
		t.Errorf("after %d loads: %v, %v", loads, c.peek(0), c.peek(3*cacheShards))
	}
	c.get(&location{block: 3 * cacheShards}, load)
	c.drop(3 * cacheShards)
	c.drop(99)
	if loads != 4 || c.peek(3*cacheShards) != nil {
		t.Error("drop does not forget")
	}
	bad := errors.New("bad")
	if _, err := c.get(&location{block: 5}, func() (*block, error) { return nil, bad }); !errors.Is(err, bad) {
		t.Error(err)
	}
	if _, err := c.get(&location{block: 5}, load); err != nil {
		t.Errorf("an error was kept: %v", err)
	}
	// Larger than the whole cache.
	if b, err := c.get(&location{block: 1}, func() (*block, error) { return newBlock(KindRecipe, nil, make([]byte, 5000)), nil }); err != nil || b == nil {
		t.Error("a large block")
	}
	// A block that is dropped while it is loaded is not kept.
	if _, err := c.get(&location{block: 7}, func() (*block, error) { c.drop(7); return load() }); err != nil || c.peek(7) != nil {
		t.Error("dropped block was kept")
	}
}

func TestCacheLoadsOnce(t *testing.T) {
	c := newCache(1 << 20)
	var loads atomic.Int32
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-begin
			for id := range uint64(100) {
				b, err := c.get(&location{block: id}, func() (*block, error) {
					loads.Add(1)
					return newBlock(KindRecipe, nil, []byte{byte(id)}), nil
				})
				if err != nil || b.data[0] != byte(id) {
					t.Error("wrong block")
				}
			}
		}()
	}
	close(begin)
	wg.Wait()
	if loads.Load() != 100 {
		t.Errorf("%d loads of 100 blocks", loads.Load())
	}
}

func TestCacheNames(t *testing.T) {
	c := newCache(1 << 20)
	a, b := castore.Sum([]byte("a")), castore.Sum([]byte("bb"))
	load := func() (*block, error) {
		return newBlock(KindData, []tableEntry{{a, 1}, {b, 2}}, []byte("abb")), nil
	}
	at := place{1, 64, 200}
	get := func(id uint64, holes bool) {
		t.Helper()
		if _, err := c.get(&location{block: id, at: at, holes: holes}, load); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := c.locate(a); ok {
		t.Error("located in an empty cache")
	}
	get(1, false)
	want := location{block: 1, slot: 1, kind: KindData, size: 2, at: at}
	if loc, ok := c.locate(b); !ok || loc.block != want.block || loc.slot != 1 || loc.size != 2 || loc.at != at || loc.mem != nil {
		t.Errorf("located at %+v, want %+v", loc, want)
	}
	similar := a
	similar[31]++
	if _, ok := c.locate(similar); ok {
		t.Error("located by the beginning of a digest")
	}
	c.drop(1)
	if _, ok := c.locate(a); ok {
		t.Error("located in a block that was dropped")
	}
	get(2, true)
	if _, ok := c.locate(a); ok {
		t.Error("located in a block with holes")
	}
	get(3, false)
	c.punch(3)
	if _, ok := c.locate(a); ok {
		t.Error("located in a block that got holes")
	}
	c.punch(4)
	get(4, false)
	if _, ok := c.locate(a); ok {
		t.Error("located in a block that got holes before it was loaded")
	}
	// The same objects in two blocks: dropping the older leaves the newer.
	get(5, false)
	get(6, false)
	c.drop(5)
	if loc, ok := c.locate(a); !ok || loc.block != 6 {
		t.Errorf("located at %+v", loc)
	}
}

func TestFilter(t *testing.T) {
	f := newFilter(minFilter)
	digest := func(i int) castore.Digest { return castore.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16)}) }
	for i := range minFilter {
		f.add(digest(i))
	}
	wrong := 0
	for i := range 2 * minFilter {
		switch may := f.mayHave(digest(i)); {
		case i < minFilter && !may:
			t.Fatalf("member %d is said to be absent", i)
		case i >= minFilter && may:
			wrong++
		}
	}
	if wrong > minFilter/50 {
		t.Errorf("%d of %d others may be there", wrong, minFilter)
	}
	if f.capacity < minFilter || f.n.Load() != minFilter {
		t.Errorf("capacity %d, %d members", f.capacity, f.n.Load())
	}
}

// TestFilterGrows fills filters beside puts.
func TestFilterGrows(t *testing.T) {
	s := openTest(t, t.TempDir(), nil)
	for round := range 4 {
		done := make(chan error)
		go func() { done <- s.fillFilter(context.Background()) }()
		for i := range 500 {
			mustPut(t, s, prose(40, uint64(round*500+i)))
			if i%100 == 0 {
				mustSync(t, s)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for i := range (round + 1) * 500 {
			if d := castore.Sum(prose(40, uint64(i))); s.presence.absent(d) {
				t.Fatalf("object %d is said to be absent", i)
			}
		}
	}
	if !s.presence.absent(castore.Sum([]byte("another"))) && !s.presence.absent(castore.Sum([]byte("another one"))) {
		t.Error("nothing is absent")
	}
}

func TestHealth(t *testing.T) {
	var h health
	if good, damaged := h.get(70); good || damaged {
		t.Error("unknown block")
	}
	h.setGood(70)
	if good, _ := h.get(70); !good {
		t.Error("good block")
	}
	if good, _ := h.get(71); good {
		t.Error("neighbour of a good block")
	}
	if !h.setDamaged(70) || h.setDamaged(70) {
		t.Error("news of damage")
	}
	if good, damaged := h.get(70); good || !damaged {
		t.Error("damaged block")
	}
	h.setGood(70)
	if good, damaged := h.get(70); !good || damaged {
		t.Error("block that is good again")
	}
}

func TestCalls(t *testing.T) {
	c := newCalls()
	var running, after atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for c.enter() {
				running.Add(1)
				running.Add(-1)
				c.leave()
			}
			after.Add(1)
		}()
	}
	if !c.close() {
		t.Error("first close")
	}
	if n := running.Load(); n != 0 {
		t.Errorf("%d calls run after close", n)
	}
	if c.close() || c.enter() || !c.isClosed() {
		t.Error("after close")
	}
	wg.Wait()
}

func TestManyPacks(t *testing.T) {
	s := openTest(t, t.TempDir(), func(o *Options) { o.PackBytes = 1; o.CacheBytes = 1 })
	const n = maxOpenPacks + 40
	for i := range uint64(n) {
		mustPut(t, s, noise(100, i))
		if i%16 == 0 {
			mustSync(t, s)
		}
		mustPut(t, s, noise(maxShared+1, i))
	}
	mustSync(t, s)
	for range 2 {
		for i := range uint64(n) {
			mustRead(t, s, noise(maxShared+1, i))
		}
	}
	if open := s.packs.open.Len(); open > maxOpenPacks {
		t.Errorf("%d packs are open", open)
	}
}

func TestBufs(t *testing.T) {
	for _, n := range []int{0, 1, 1 << 16, 1<<16 + 1, 1 << 20, 1<<21 + 1} {
		b := getBuf(n)
		if len(b) != n {
			t.Errorf("getBuf(%d) has %d bytes", n, len(b))
		}
		putBuf(b)
		putBuf(b[:0:0])
		putBuf(make([]byte, 100))
	}
}
