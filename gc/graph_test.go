package gc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// makeGraph makes a graph of n paths, each referring to some before it and
// perhaps to itself.
func makeGraph(n, maxRefs int, rng *rand.Rand) []pathinfo.PathRefs {
	nodes := make([]pathinfo.PathRefs, n)
	for i := range nodes {
		nodes[i].Path = pathOf(fmt.Sprintf("node-%d", i))
		nodes[i].NarSize = uint64(rng.IntN(1000))
		nodes[i].LastUse = time.Unix(int64(rng.IntN(20)), 0)
		for range rng.IntN(maxRefs + 1) {
			nodes[i].References = append(nodes[i].References, nodes[rng.IntN(i+1)].Path)
		}
		nodes[i].References = storepath.SortUnique(nodes[i].References)
	}
	slices.SortFunc(nodes, func(a, b pathinfo.PathRefs) int { return a.Path.Compare(b.Path) })
	return nodes
}

// In random graphs: what is marked is closed under references, and each prefix
// of the deletion order leaves nothing that refers to what was deleted.
func TestMarkAndOrder(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		nodes := makeGraph(1+rng.IntN(60), 5, rng)
		g := newGraph(nodes, false, false)
		var roots []storepath.Path
		for range rng.IntN(5) {
			roots = append(roots, nodes[rng.IntN(len(nodes))].Path)
		}
		live := g.mark(append(roots, pathOf("unknown")))
		for _, p := range roots {
			if !live[g.index[p]] {
				t.Fatalf("seed %d: a root is not live", seed)
			}
		}
		order := g.deletionOrder(live)
		place := make(map[int32]int)
		for n, i := range order {
			place[i] = n
		}
		for i := range nodes {
			if _, dead := place[int32(i)]; dead == live[i] {
				t.Fatalf("seed %d: live=%v and in the order=%v", seed, live[i], dead)
			}
			for _, j := range g.refs.of(int32(i)) {
				if live[i] && !live[j] {
					t.Fatalf("seed %d: a live path refers to a dead one", seed)
				}
				if !live[i] && !live[j] && place[int32(i)] > place[j] {
					t.Fatalf("seed %d: a path goes before its referrer", seed)
				}
			}
		}
	}
}

func TestPrefix(t *testing.T) {
	g := newGraph([]pathinfo.PathRefs{
		{Path: pathOf("a"), NarSize: 10}, {Path: pathOf("b"), NarSize: 10}, {Path: pathOf("c"), NarSize: 1 << 63},
	}, false, false)
	all := []int32{0, 1, 2}
	for budget, want := range map[uint64]int{0: 1, 9: 1, 10: 2, 19: 2, 20: 3, 1 << 62: 3, NoLimit: 3} {
		if got := g.prefix(all, budget); got != want {
			t.Errorf("budget %d: %d, wanted %d", budget, got, want)
		}
	}
}
