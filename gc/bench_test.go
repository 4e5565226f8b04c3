package gc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// BenchmarkMark marks 100,000 paths of which half are dead, and orders those.
func BenchmarkMark(b *testing.B) {
	nodes := makeGraph(100_000, 20, rand.New(rand.NewPCG(1, 2)))
	roots := make([]storepath.Path, 0, 100)
	for i := range 100 {
		roots = append(roots, nodes[i*97].Path)
	}
	b.ReportAllocs()
	for b.Loop() {
		g := newGraph(nodes, true, true)
		g.deletionOrder(g.mark(roots))
	}
}

// fill registers paths that share one content and refer to up to ten others.
func (f *fixture) fill(paths int) {
	f.t.Helper()
	in, err := f.store.IngestFlat(context.Background(), strings.NewReader("the contents of all"), false)
	if err != nil {
		f.t.Fatal(err)
	}
	defer in.Release()
	infos := make([]pathinfo.PathInfo, 0, paths)
	for _, n := range makeGraph(paths, 10, rand.New(rand.NewPCG(3, 4))) {
		infos = append(infos, pathinfo.PathInfo{
			Path: n.Path, References: n.References, Root: in.Root, NarSize: in.NarSize,
			NarHash: nixhash.Sum(nixhash.SHA256, []byte(n.Path.Base())),
		})
	}
	if err := f.store.Register(context.Background(), infos); err != nil {
		f.t.Fatal(err)
	}
}

// BenchmarkCollect collects a store of 100,000 paths on disk: without deleting
// any, and deleting all.
func BenchmarkCollect(b *testing.B) {
	for name, action := range map[string]Action{"dead": ReturnDead, "delete": DeleteDead} {
		b.Run(fmt.Sprintf("%s/100000", name), func(b *testing.B) {
			contents, infos := diskServices(b)
			f := newFixtureOn(b, contents, infos)
			f.fill(100_000)
			for b.Loop() {
				r := f.collect(Request{Action: action})
				b.StopTimer()
				if len(r.Paths) != 100_000 {
					b.Fatalf("%d paths are dead", len(r.Paths))
				}
				if action == DeleteDead {
					f.fill(100_000)
				}
				b.StartTimer()
			}
		})
	}
}
