package pathinfotest

import (
	"testing"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

const benchPaths = 10_000

// benchInfos are like a closure: a dozen references each, most to a few paths.
func benchInfos() ([]pathinfo.PathInfo, []storepath.Path) {
	infos := make([]pathinfo.PathInfo, benchPaths)
	paths := make([]storepath.Path, benchPaths)
	for i := range infos {
		paths[i] = Path(i)
		var refs []storepath.Path
		for j := 1; j <= 12 && j <= i; j++ {
			refs = append(refs, paths[(i*j)%min(i, 40*j)])
		}
		infos[i] = Info(i, refs...)
		infos[i].Deriver = Drv(i)
		infos[i].Signatures = []string{"cache.nixos.org-1:" + "aGVsbG8gd29ybGQhIGhlbGxvIHdvcmxkISBoZWxsbyB3b3JsZCEgaGVsbG8gd29ybGQhIGhlbGxvIHdvcmxkIQ=="}
	}
	return infos, paths
}

// Bench measures a service whose newService is that of Run.
func Bench(b *testing.B, newService func(t testing.TB) pathinfo.Service) {
	infos, paths := benchInfos()
	b.Run("Register10000", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			s := newService(b)
			b.StartTimer()
			register(b, s, infos...)
		}
	})
	b.Run("RegisterOne", func(b *testing.B) {
		s := newService(b)
		for i := 0; b.Loop(); i++ {
			register(b, s, Info(i))
		}
	})
	b.Run("DeleteAll10000", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			s := newService(b)
			register(b, s, infos...)
			b.StartTimer()
			if err := s.Delete(b.Context(), paths); err != nil {
				b.Fatal(err)
			}
		}
	})
	s := newService(b)
	register(b, s, infos...)
	b.Run("Get", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			get(b, s, paths[i%len(paths)])
		}
	})
	b.Run("Root", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := s.Root(b.Context(), paths[i%len(paths)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Valid10000", func(b *testing.B) {
		for b.Loop() {
			if valid, err := s.Valid(b.Context(), paths); err != nil || len(valid) != len(paths) {
				b.Fatal(err)
			}
		}
	})
	b.Run("GetMany10000", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.GetMany(b.Context(), paths); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Closure", func(b *testing.B) {
		for b.Loop() {
			closure, err := s.Closure(b.Context(), paths[len(paths)-100:], false)
			if err != nil || len(closure) < 100 {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(closure)), "paths")
		}
	})
	b.Run("Graph10000", func(b *testing.B) {
		for b.Loop() {
			if g, err := s.Graph(b.Context()); err != nil || len(g) != len(paths) {
				b.Fatal(err)
			}
		}
	})
}
