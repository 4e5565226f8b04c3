package gc

import (
	"container/heap"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// graph is the reference graph of a store, with paths numbered by their place
// in nodes, so that a mark touches no path and no map.
type graph struct {
	nodes []pathinfo.PathRefs
	index map[storepath.Path]int32

	refs  adjacency // to each path's references, but not to itself
	keeps adjacency // to what a live path keeps alive: refs, and by the settings more
}

// adjacency lists for each node the nodes that its edges lead to.
type adjacency struct {
	start []int32 // of node i: to[start[i]:start[i+1]]
	to    []int32
}

func (a *adjacency) of(i int32) []int32 { return a.to[a.start[i]:a.start[i+1]] }

func newGraph(nodes []pathinfo.PathRefs, keepOutputs, keepDerivations bool) *graph {
	g := &graph{nodes: nodes, index: make(map[storepath.Path]int32, len(nodes))}
	for i := range nodes {
		g.index[nodes[i].Path] = int32(i)
	}
	g.refs.start = make([]int32, 1, len(nodes)+1)
	g.keeps.start = make([]int32, 1, len(nodes)+1)
	for i := range nodes {
		n := &nodes[i]
		first := len(g.refs.to)
		g.refs.to = g.appendNodes(g.refs.to, int32(i), n.References)
		g.refs.start = append(g.refs.start, int32(len(g.refs.to)))

		g.keeps.to = append(g.keeps.to, g.refs.to[first:]...)
		if keepOutputs {
			g.keeps.to = g.appendNodes(g.keeps.to, int32(i), n.Outputs)
		}
		if d, ok := g.index[n.Deriver]; ok && keepDerivations {
			g.keeps.to = append(g.keeps.to, d)
		}
		g.keeps.start = append(g.keeps.start, int32(len(g.keeps.to)))
	}
	return g
}

// appendNodes appends the numbers of those paths that are valid and not self.
func (g *graph) appendNodes(to []int32, self int32, paths []storepath.Path) []int32 {
	for _, p := range paths {
		if j, ok := g.index[p]; ok && j != self {
			to = append(to, j)
		}
	}
	return to
}

// mark returns for each node whether one of roots reaches it. Roots that are
// not valid are passed over.
func (g *graph) mark(roots []storepath.Path) []bool {
	live := make([]bool, len(g.nodes))
	var todo []int32
	for _, p := range roots {
		if i, ok := g.index[p]; ok && !live[i] {
			live[i] = true
			todo = append(todo, i)
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, j := range g.keeps.of(i) {
			if !live[j] {
				live[j] = true
				todo = append(todo, j)
			}
		}
	}
	return live
}

// nodeSet is a set of nodes, one element for each.
type nodeSet []bool

func (s nodeSet) complement() []bool {
	c := make([]bool, len(s))
	for i, in := range s {
		c[i] = !in
	}
	return c
}

// deletionOrder lists the nodes that are not live, each after all that refer
// to it, so that every prefix of the list may be deleted alone. Of those that
// could be next, the one that was unused for longest comes first.
func (g *graph) deletionOrder(live []bool) []int32 {
	referrers := make([]int32, len(g.nodes)) // dead ones that are not in the order yet
	count := 0
	for i := range g.nodes {
		if !live[i] {
			count++
			for _, j := range g.refs.of(int32(i)) {
				referrers[j]++
			}
		}
	}
	next := byLastUse{g: g}
	for i := range g.nodes {
		if !live[i] && referrers[i] == 0 {
			next.nodes = append(next.nodes, int32(i))
		}
	}
	heap.Init(&next)
	order := make([]int32, 0, count)
	for next.Len() > 0 {
		i := heap.Pop(&next).(int32)
		order = append(order, i)
		for _, j := range g.refs.of(i) {
			if referrers[j]--; referrers[j] == 0 && !live[j] {
				heap.Push(&next, j)
			}
		}
	}
	return order
}

// byLastUse is a heap of nodes. Equal times go by path, so that the order is
// the same each time.
type byLastUse struct {
	g     *graph
	nodes []int32
}

func (h *byLastUse) Len() int      { return len(h.nodes) }
func (h *byLastUse) Swap(i, j int) { h.nodes[i], h.nodes[j] = h.nodes[j], h.nodes[i] }
func (h *byLastUse) Push(x any)    { h.nodes = append(h.nodes, x.(int32)) }

func (h *byLastUse) Less(i, j int) bool {
	a, b := h.nodes[i], h.nodes[j]
	if c := h.g.nodes[a].LastUse.Compare(h.g.nodes[b].LastUse); c != 0 {
		return c < 0
	}
	return a < b // nodes are sorted by path
}

func (h *byLastUse) Pop() any {
	last := len(h.nodes) - 1
	x := h.nodes[last]
	h.nodes = h.nodes[:last]
	return x
}

// prefix returns how many of nodes it takes until their NARs are together
// larger than budget, all of them if they are not.
func (g *graph) prefix(nodes []int32, budget uint64) int {
	for n, i := range nodes {
		size := g.nodes[i].NarSize
		if size > budget {
			return n + 1
		}
		budget -= size
	}
	return len(nodes)
}

func (g *graph) pathsOf(nodes []int32) []storepath.Path {
	paths := make([]storepath.Path, len(nodes))
	for n, i := range nodes {
		paths[n] = g.nodes[i].Path
	}
	return paths
}

// deletable goes through requested, which is sorted, until it meets a path
// that cannot be deleted: one that is live, or that something outside of
// requested needs. It returns the nodes before that path, those requested
// paths that are not valid, and that path, none if all can be deleted.
func (g *graph) deletable(requested []storepath.Path, live []bool) (dead nodeSet, absent []storepath.Path, alive storepath.Path) {
	wanted := make(nodeSet, len(g.nodes))
	for _, p := range requested {
		if i, ok := g.index[p]; ok {
			wanted[i] = true
		} else {
			absent = append(absent, p)
		}
	}
	users := g.keeps.reverse()
	dead = make(nodeSet, len(g.nodes))
	for _, p := range requested {
		i, ok := g.index[p]
		if !ok || dead[i] {
			continue
		}
		above := reachable(&users, i, dead)
		for _, j := range above {
			if live[j] || !wanted[j] {
				return dead, absent, p
			}
		}
		for _, j := range above {
			dead[j] = true
		}
	}
	return dead, absent, storepath.Path{}
}

// reachable lists start and the nodes that it reaches, but for those in done
// and what only they reach.
func reachable(a *adjacency, start int32, done nodeSet) []int32 {
	seen := map[int32]bool{start: true}
	list := []int32{start}
	for n := 0; n < len(list); n++ {
		for _, j := range a.of(list[n]) {
			if !seen[j] && !done[j] {
				seen[j] = true
				list = append(list, j)
			}
		}
	}
	return list
}

// reverse returns the edges the other way round.
func (a *adjacency) reverse() adjacency {
	n := len(a.start) - 1
	r := adjacency{start: make([]int32, n+1), to: make([]int32, len(a.to))}
	for _, j := range a.to {
		r.start[j+1]++
	}
	for i := range n {
		r.start[i+1] += r.start[i]
	}
	at := append([]int32(nil), r.start[:n]...)
	for i := range n {
		for _, j := range a.of(int32(i)) {
			r.to[at[j]] = int32(i)
			at[j]++
		}
	}
	return r
}
