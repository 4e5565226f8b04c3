package pathinfo_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

func mkPath(t testing.TB, i int) storepath.Path {
	t.Helper()
	p, err := storepath.New([20]byte{byte(i), byte(i >> 8), byte(i >> 16)}, fmt.Sprintf("p%d", i))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOrder(t *testing.T) {
	tests := []struct {
		name  string
		edges [][]int // edges[i]: path, references...
		want  []int   // nil: any valid order will do
		cycle bool
	}{
		{name: "empty", want: []int{}},
		{name: "one", edges: [][]int{{7}}, want: []int{0}},
		{name: "self reference", edges: [][]int{{1, 1}, {2, 1, 2}}, want: []int{0, 1}},
		{name: "outside", edges: [][]int{{1, 9}, {2, 8}}, want: []int{0, 1}},
		{name: "reversed", edges: [][]int{{1, 2}, {2, 3}, {3}}, want: []int{2, 1, 0}},
		{name: "diamond", edges: [][]int{{1, 2, 3}, {2, 4}, {3, 4}, {4}}},
		{name: "twice", edges: [][]int{{1}, {2}, {1, 2}}, want: []int{1, 0, 2}},
		{name: "two", edges: [][]int{{1, 2}, {2, 1}}, cycle: true},
		{name: "three", edges: [][]int{{1, 2}, {2, 3}, {3, 1}}, cycle: true},
		{name: "cycle through a repeated path", edges: [][]int{{1}, {2, 1}, {1, 2}}, cycle: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			infos := make([]pathinfo.PathInfo, len(tt.edges))
			for i, e := range tt.edges {
				infos[i].Path = mkPath(t, e[0])
				for _, r := range e[1:] {
					infos[i].References = append(infos[i].References, mkPath(t, r))
				}
			}
			got, err := pathinfo.Order(infos)
			var cycle *pathinfo.CycleError
			if errors.As(err, &cycle) != tt.cycle {
				t.Fatalf("error %v, want a cycle: %v", err, tt.cycle)
			}
			if err != nil {
				return
			}
			if tt.want != nil && !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			checkOrder(t, infos, got)
		})
	}
}

// checkOrder checks that order is a permutation with references first.
func checkOrder(t *testing.T, infos []pathinfo.PathInfo, order []int) {
	t.Helper()
	at := make(map[storepath.Path]int)
	seen := make(map[int]bool)
	for pos, i := range order {
		at[infos[i].Path] = pos
		seen[i] = true
	}
	if len(seen) != len(infos) {
		t.Errorf("order %v is no permutation of %d", order, len(infos))
	}
	for pos, i := range order {
		for _, r := range infos[i].References {
			if at[r] > at[infos[i].Path] {
				t.Errorf("path %d comes before its reference %s", pos, r)
			}
		}
	}
}

func TestOrderDeep(t *testing.T) {
	const n = 100_000
	infos := make([]pathinfo.PathInfo, n)
	for i := range infos {
		infos[i].Path = mkPath(t, i)
		if i+1 < n {
			infos[i].References = []storepath.Path{mkPath(t, i+1)}
		}
	}
	order, err := pathinfo.Order(infos)
	if err != nil {
		t.Fatal(err)
	}
	if len(order) != n || order[0] != n-1 || order[n-1] != 0 {
		t.Errorf("wrong order of a chain of %d", n)
	}
}
