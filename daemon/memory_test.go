package daemon

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// TestStallingClients checks that clients which begin large requests and send no more do not take
// more than the budget, that others are told, and that memory comes back when they leave.
func TestStallingClients(t *testing.T) {
	const budget, text, clients = 8 << 20, 3 << 20, 20
	d := newDaemon(t, setup{budget: budget, trust: wp.NotTrusted})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var stalled []raw
	for range clients {
		r := d.dialOld(t)
		r.words(uint64(wp.OpAddTextToStore))
		r.text("name")
		r.words(16 << 20)
		if _, err := r.Write(make([]byte, text)); err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, r)
	}
	// All that was written is read when the socket's buffer has room for more than was left in it.
	for _, r := range stalled {
		if _, err := r.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if used := d.budget.Used(); used > budget {
		t.Errorf("%d bytes are taken of %d", used, budget)
	}
	if grown := int64(heap()) - int64(before); grown > budget+clients*(wp.FreeBytes+256<<10) {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	c := d.dial(t, 0)
	_, err := c.AddTextToStore(t.Context(), wp.AddTextToStoreRequest{Name: "text", Text: strings.Repeat("x", 8<<20)})
	wantError(t, "a large text", err, "read text: the memory for the requests of all clients is used up; try again later")
	if _, err := c.AddTextToStore(t.Context(), wp.AddTextToStoreRequest{Name: "text", Text: strings.Repeat("x", 512<<10)}); err != nil {
		t.Errorf("a small text: %v", err)
	}
	addUnsignedCA(t, d, c, "by-contents")
	for _, r := range stalled {
		r.Close()
	}
	d.waitForClients(t, 1)
	waitUntilFree(t, d.budget)
	if _, err := c.AddTextToStore(t.Context(), wp.AddTextToStoreRequest{Name: "text", Text: strings.Repeat("x", 8<<20)}); err != nil {
		t.Errorf("a large text afterwards: %v", err)
	}
	if grown := int64(heap()) - int64(before); grown > 16<<20 {
		t.Errorf("the heap is %d bytes larger when all have left", grown)
	}
}

// waitUntilFree waits until all is given back, which happens a moment after a client has its answer
// or has left.
func waitUntilFree(t *testing.T, b *wp.Budget) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); b.Used() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are still taken", b.Used())
		}
	}
}

// addUnsignedCA adds a path by its contents with AddToStoreNar.
func addUnsignedCA(t *testing.T, d *testDaemon, c *wp.Client, name string) {
	t.Helper()
	info, archive := item(t, name, "contents of "+name)
	info.CA = storepath.ContentAddress{Method: storepath.NAR, Hash: info.NarHash}
	var err error
	if info.Path, err = d.layout.Store.FromContentAddress(name, info.CA, storepath.References{}); err != nil {
		t.Fatal(err)
	}
	if err := c.AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info}, bytes.NewReader(archive)); err != nil {
		t.Errorf("add %s: %v", name, err)
	}
}

// TestItemInfosAreBounded checks that the infos in one stream of items count, and only while they
// are kept.
func TestItemInfosAreBounded(t *testing.T) {
	d := newDaemon(t, setup{budget: 4 << 20})
	c := d.dial(t, 0)
	add := func(prefix string, n, signature int) error {
		return c.AddMultipleToStore(t.Context(), wp.AddMultipleToStoreRequest{DontCheckSigs: true}, uint64(n), func(yield func(wp.Item) bool) {
			for i := range n {
				info, archive := item(t, fmt.Sprint(prefix, i), "contents")
				info.Signatures = []string{"key:" + strings.Repeat("x", signature)}
				if !yield(wp.Item{Info: info, NAR: bytes.NewReader(archive)}) {
					return
				}
			}
		})
	}
	wantError(t, "large infos", add("large", 200, 60_000), "is used up")
	// More than the budget, but not at any time.
	if err := add("small", 5000, 1500); err != nil {
		t.Errorf("small infos: %v", err)
	}
	waitUntilFree(t, d.budget)
}

// TestTempRootsAreBounded checks that a client cannot lease names without end.
func TestTempRootsAreBounded(t *testing.T) {
	d := newDaemon(t, setup{budget: 64 << 10})
	c := d.dial(t, 0)
	const free = wp.FreeBytes/leaseBytes + 64<<10/leaseBytes
	for i := range free {
		for range 2 {
			if err := c.AddTempRoot(t.Context(), pathFor(t, fmt.Sprint("p", i))); err != nil {
				t.Fatalf("path %d: %v", i, err)
			}
		}
	}
	err := c.AddTempRoot(t.Context(), pathFor(t, "one-more"))
	wantError(t, "one more", err, "is used up")
	if err := c.AddTempRoot(t.Context(), pathFor(t, "p0")); err != nil {
		t.Errorf("a path that is kept: %v", err)
	}
	c.Close()
	d.waitForClients(t, 0)
	waitUntilFree(t, d.leased)
}
