package fuse

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

func fileNode(i uint64) node {
	n := node{kind: castore.KindFile, size: i, parent: rootID}
	binary.LittleEndian.PutUint64(n.digest[:], mix64(i))
	return n
}

func TestNodeTableIdentity(t *testing.T) {
	table := newMemoryTable()
	id := func(change func(*node)) uint64 {
		n := fileNode(7)
		change(&n)
		id, _ := table.remember(&n)
		if id <= rootID {
			t.Fatalf("number %d belongs to the root", id)
		}
		return id
	}
	directory := func(n *node) { n.kind = castore.KindDirectory }
	symlink := func(target string) func(*node) {
		return func(n *node) { *n = node{kind: castore.KindSymlink, text: target, parent: n.parent} }
	}
	numbers := map[uint64]string{}
	for name, change := range map[string]func(*node){
		"file":                 func(*node) {},
		"executable":           func(n *node) { n.executable = true },
		"other size":           func(n *node) { n.size++ },
		"other contents":       func(n *node) { n.digest[31]++ },
		"directory":            directory,
		"its next sibling":     func(n *node) { directory(n); n.index = 1 },
		"its cousin":           func(n *node) { directory(n); n.parent = 5 },
		"another one at root":  func(n *node) { directory(n); n.text = "name" },
		"replaced one":         func(n *node) { directory(n); n.digest[31]++ },
		"symlink":              symlink("a"),
		"symlink to elsewhere": symlink("b"),
	} {
		number := id(change)
		if other, ok := numbers[number]; ok {
			t.Errorf("%s and %s share number %d", name, other, number)
		}
		numbers[number] = name
	}
	for name, change := range map[string]func(*node){
		"file": func(n *node) { n.parent, n.text, n.index = 9, "", 3 },
		"symlink": func(n *node) {
			symlink("a")(n)
			n.parent = 9
		},
	} {
		if number := id(change); numbers[number] != name {
			t.Errorf("an equal %s in another place has a number of its own", name)
		}
	}
	if table.len() != len(numbers) {
		t.Errorf("%d nodes, want %d", table.len(), len(numbers))
	}
}

func TestNodeTableForgets(t *testing.T) {
	table := newMemoryTable()
	n := fileNode(1)
	id, generation := table.remember(&n)
	for range 4 {
		if again, _ := table.remember(&n); again != id {
			t.Fatal("a node changed its number")
		}
	}
	table.forget(id, 3)
	if got, ok := table.get(id); !ok || got != n {
		t.Fatalf("%+v, %v", got, ok)
	}
	table.forget(id, 2)
	if _, ok := table.get(id); ok || table.len() != 0 {
		t.Error("a node outlives its references")
	}
	for _, nobody := range []uint64{id, 0, rootID, 2, 1 << 40, ^uint64(0)} {
		table.forget(nobody, 1)
		if _, ok := table.get(nobody); ok {
			t.Errorf("number %d is a node", nobody)
		}
	}
	if again, next := table.remember(&n); again == id && next == generation {
		t.Error("a number comes again in the same generation")
	}
	table.forget(id, 1<<60) // more than there are
	if table.len() != 0 {
		t.Error("a node outlives its references")
	}
}

// TestNodeTableAgainstModel does random things to a table and to maps.
func TestNodeTableAgainstModel(t *testing.T) {
	table := newMemoryTable()
	random := rand.New(rand.NewPCG(1, 2))
	type known struct{ id, references uint64 }
	model := map[uint64]*known{}
	for step := range 200_000 {
		// The table grows to some thousand nodes and shrinks again.
		span := uint64(1 + step%40_000/8)
		key := random.Uint64N(span)
		k := model[key]
		if random.IntN(5) < 3 {
			n := fileNode(key)
			id, _ := table.remember(&n)
			if k == nil {
				k = &known{id: id}
				model[key] = k
			}
			if k.id != id {
				t.Fatalf("step %d: number %d, want %d", step, id, k.id)
			}
			k.references++
		} else if k != nil {
			take := 1 + random.Uint64N(k.references)
			table.forget(k.id, take)
			if k.references -= take; k.references == 0 {
				delete(model, key)
			}
		}
	}
	if table.len() != len(model) {
		t.Errorf("%d nodes, want %d", table.len(), len(model))
	}
	for key, k := range model {
		if n, ok := table.get(k.id); !ok || n.size != key {
			t.Errorf("node %d: %+v, %v", key, n, ok)
		}
		table.forget(k.id, k.references)
	}
	if table.len() != 0 {
		t.Errorf("%d nodes are left", table.len())
	}
	for i := range table.shards {
		s := &table.shards[i]
		for _, c := range s.chunks {
			if c != nil {
				t.Fatal("memory of an empty table is kept")
			}
		}
		if len(s.index.cells) > minIndexCells {
			t.Fatalf("index of an empty table has %d cells", len(s.index.cells))
		}
	}
}

func TestNodeTableConcurrently(t *testing.T) {
	table := newMemoryTable()
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 0))
			for range 20_000 {
				key := random.Uint64N(300)
				n := fileNode(key)
				id, _ := table.remember(&n)
				if got, ok := table.get(id); !ok || got.size != key {
					t.Errorf("node %d: %+v, %v", key, got, ok)
				}
				table.forget(id, 1)
			}
		})
	}
	workers.Wait()
	if table.len() != 0 {
		t.Errorf("%d nodes are left", table.len())
	}
}

func TestHashIndexWithEqualHashes(t *testing.T) {
	var x hashIndex
	const n = 100
	is := func(slot uint32) func(uint32) bool { return func(s uint32) bool { return s == slot } }
	for slot := range uint32(n) {
		x.insert(slot%3, slot)
	}
	for slot := range uint32(n) {
		if got, ok := x.find(slot%3, is(slot)); !ok || got != slot {
			t.Fatalf("slot %d: %d, %v", slot, got, ok)
		}
		x.remove(slot%3, slot)
		if _, ok := x.find(slot%3, is(slot)); ok {
			t.Fatalf("slot %d is found after it was removed", slot)
		}
	}
}

func BenchmarkNodeTable(b *testing.B) {
	b.Run("remember", func(b *testing.B) {
		table := newMemoryTable()
		i := uint64(0)
		for b.Loop() {
			i++
			n := fileNode(i % 1_000_000)
			table.remember(&n)
		}
	})
	b.Run("memory", func(b *testing.B) {
		const nodes = 1_000_000
		for b.Loop() {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			table := newMemoryTable()
			for i := range uint64(nodes) {
				n := fileNode(i)
				table.remember(&n)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/nodes, "B/node")
			runtime.KeepAlive(table)
		}
	})
}

func TestInodeNumbers(t *testing.T) {
	equal := &fileSystem{opts: &Options{}}
	distinct := &fileSystem{opts: &Options{DistinctDirectories: true}}
	seen := map[uint64]string{}
	for i := range 1000 {
		c := castore.Node{Kind: castore.KindDirectory}
		if equal.inode(&c, uint64(i), i, "") != equal.inode(&c, 0, 0, "") {
			t.Fatal("equal directories differ")
		}
		for what, ino := range map[string]uint64{
			"place":  distinct.inode(&c, 77, i, ""),
			"parent": distinct.inode(&c, uint64(i)<<2|inoDirectory, 1000, ""),
			"name":   distinct.inode(&c, rootID, 0, fmt.Sprint("name", i)),
		} {
			what = fmt.Sprint(what, i)
			if other, ok := seen[ino]; ok || ino <= rootID || ino >= 1<<63 {
				t.Fatalf("%s has number %d, as %s", what, ino, other)
			}
			seen[ino] = what
		}
	}
}
