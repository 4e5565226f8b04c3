package store_test

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/disk"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/pathinfo/sqlite"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// openDisk opens the store in dir as the daemon does. What it returns closes it.
func openDisk(t testing.TB, dir string) (*store.Store, func()) {
	t.Helper()
	db, err := sqldb.Open(filepath.Join(dir, "db.sqlite"), sqldb.Options{ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	cas, err := disk.Open(t.Context(), disk.Options{Dir: dir, DB: db})
	if err != nil {
		db.Close()
		t.Fatal(err)
	}
	infos, err := sqlite.New(t.Context(), db, nil)
	if err != nil {
		cas.Close()
		db.Close()
		t.Fatal(err)
	}
	return store.New(store.Options{Castore: cas, PathInfo: infos}), func() {
		if err := cas.Close(); err != nil {
			t.Errorf("close castore: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close database: %v", err)
		}
	}
}

func newDiskStore(t testing.TB) *store.Store {
	s, closeStore := openDisk(t, t.TempDir())
	t.Cleanup(closeStore)
	return s
}

// TestDisk adds in all ways, reopens, collects and adds again.
func TestDisk(t *testing.T) {
	dir := t.TempDir()
	s, closeStore := openDisk(t, dir)
	ctx := t.Context()
	tree := treeDump(t)
	addNAR(t, s, path("tree"), tree)
	paths := closure(t, 1200)
	r := stream(paths)
	b := s.Batch(ctx)
	for _, p := range paths {
		if err := b.AddNAR(ctx, claim(p.path, p.dump, p.refs...), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	text, err := s.AddText(ctx, "text", []byte("text"), []storepath.Path{path("tree")}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkWhole(t, s)
	closeStore()

	s, closeStore = openDisk(t, dir)
	checkNAR(t, s, path("tree"), tree)
	checkNAR(t, s, text, file(t, "text"))
	for _, p := range paths {
		checkNAR(t, s, p.path, p.dump)
	}
	all, err := s.PathInfo().Paths(ctx)
	if err != nil || len(all) != len(paths)+2 {
		t.Fatalf("%d paths, error %v", len(all), err)
	}
	l := s.NewLease()
	l.Add(text)
	if gone := del(t, s, all...); len(gone) != len(paths) {
		t.Errorf("%d of %d paths are gone", len(gone), len(paths))
	}
	l.Release()
	var live castore.LiveSet = s.PathInfo()
	if _, err := s.Castore().Sweep(ctx, live, castore.SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	checkNAR(t, s, path("tree"), tree)
	checkNAR(t, s, text, file(t, "text"))
	for _, p := range paths[:10] {
		addNAR(t, s, p.path, p.dump, p.refs...)
	}
	checkWhole(t, s)
	closeStore()
}

// TestSweepBesideAdds sweeps with nothing alive while paths are added.
func TestSweepBesideAdds(t *testing.T) {
	s := newDiskStore(t)
	dumps := make(map[storepath.Path][]byte)
	done := make(chan error, 1)
	go func() {
		for range 20 {
			if _, err := s.Castore().Sweep(t.Context(), s.PathInfo(), castore.SweepOptions{}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range 60 {
		p := path(fmt.Sprintf("p%d", i))
		dumps[p] = dirNAR(t, "f", fmt.Sprintf("contents %d", i%7))
		addNAR(t, s, p, dumps[p])
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for p, dump := range dumps {
		checkNAR(t, s, p, dump)
	}
	checkWhole(t, s)
}

// noise is an endless file that cannot be deduplicated.
type noise struct{ state uint64 }

func (n *noise) Read(p []byte) (int, error) {
	x := n.state | 1
	for i := range p {
		if i%8 == 0 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		p[i] = byte(x >> (8 * (i % 8)))
	}
	n.state = x
	return len(p), nil
}

func benchDumps(b *testing.B) map[string][]byte {
	small := filepath.Join(b.TempDir(), "small")
	writeTree(b, small, 1, treeSpec{dirs: 400, files: 8000, links: 200, maxSmall: 8000})
	large := filepath.Join(b.TempDir(), "large")
	writeTree(b, large, 2, treeSpec{dirs: 2, large: []int{16 << 20, 32 << 20, 8 << 20}})
	return map[string][]byte{"small files": dumpPath(b, small), "large files": dumpPath(b, large)}
}

var benchStores = []struct {
	name string
	new  func(testing.TB) *store.Store
}{{"memory", newStore}, {"disk", newDiskStore}}

func BenchmarkAddNAR(b *testing.B) {
	var candidates []storepath.Path
	for i := range 1000 {
		candidates = append(candidates, path(fmt.Sprint("c", i)))
	}
	for name, dump := range benchDumps(b) {
		for _, kind := range benchStores {
			b.Run(name+"/"+kind.name, func(b *testing.B) {
				b.SetBytes(int64(len(dump)))
				for b.Loop() {
					b.StopTimer()
					s := kind.new(b)
					b.StartTimer()
					addNAR(b, s, path("p"), dump)
				}
			})
		}
		b.Run(name+"/scanned", func(b *testing.B) {
			b.SetBytes(int64(len(dump)))
			for b.Loop() {
				b.StopTimer()
				s := newStore(b)
				b.StartTimer()
				in, err := s.IngestNAR(b.Context(), bytes.NewReader(dump), store.IngestOptions{Candidates: candidates})
				if err != nil {
					b.Fatal(err)
				}
				in.Release()
			}
		})
	}
}

func BenchmarkWriteNAR(b *testing.B) {
	for name, dump := range benchDumps(b) {
		for _, kind := range benchStores {
			b.Run(name+"/"+kind.name, func(b *testing.B) {
				s := kind.new(b)
				addNAR(b, s, path("p"), dump)
				b.SetBytes(int64(len(dump)))
				for b.Loop() {
					if err := s.NARFromPath(b.Context(), path("p"), io.Discard); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	paths := make([]batchPath, 2000)
	var size int64
	for i := range paths {
		paths[i] = batchPath{path: path(fmt.Sprint("p", i)), dump: dirNAR(b, "f", fmt.Sprintf("%0*d", i*10, i))}
		if i > 0 {
			paths[i].refs = []storepath.Path{paths[i-1].path}
		}
		size += int64(len(paths[i].dump))
	}
	for _, kind := range benchStores {
		b.Run(kind.name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				b.StopTimer()
				s := kind.new(b)
				b.StartTimer()
				r := stream(paths)
				batch := s.Batch(b.Context())
				for _, p := range paths {
					if err := batch.AddNAR(b.Context(), claim(p.path, p.dump, p.refs...), r); err != nil {
						b.Fatal(err)
					}
				}
				if err := batch.Commit(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*len(paths))/b.Elapsed().Seconds(), "paths/s")
		})
	}
}

// BenchmarkAddTiny adds paths one by one, each with its own Sync.
func BenchmarkAddTiny(b *testing.B) {
	s := newDiskStore(b)
	for i := 0; b.Loop(); i++ {
		addNAR(b, s, path(fmt.Sprint("p", i)), file(b, fmt.Sprint("contents ", i)))
	}
}

func BenchmarkIngestTree(b *testing.B) {
	dir := b.TempDir()
	writeTree(b, filepath.Join(dir, "tree"), 1, treeSpec{dirs: 400, files: 8000, links: 200, maxSmall: 8000})
	b.SetBytes(int64(len(dumpPath(b, filepath.Join(dir, "tree")))))
	for b.Loop() {
		b.StopTimer()
		s := newStore(b)
		b.StartTimer()
		in, err := ingestTree(b, s, dir, "tree", store.TreeOptions{})
		if err != nil {
			b.Fatal(err)
		}
		in.Release()
	}
}

// BenchmarkRegister10000 registers paths whose contents are there.
func BenchmarkRegister10000(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := newDiskStore(b)
		addNAR(b, s, path("first"), file(b, "x"))
		first, err := s.PathInfo().Get(b.Context(), path("first"))
		if err != nil {
			b.Fatal(err)
		}
		infos := make([]pathinfo.PathInfo, 10_000)
		for i := range infos {
			infos[i] = *first
			infos[i].Path = path(fmt.Sprint("p", i))
			infos[i].References = []storepath.Path{path("first"), path(fmt.Sprint("p", i/2))}
		}
		b.StartTimer()
		if err := s.Register(b.Context(), infos); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHuge adds and renders a single large file that was never in memory.
func BenchmarkHuge(b *testing.B) {
	const size = 256 << 20
	s := newDiskStore(b)
	for i := 0; b.Loop(); i++ {
		in, err := s.IngestFlat(b.Context(), io.LimitReader(&noise{state: uint64(i) << 20}, size), false)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.WriteNAR(b.Context(), in.Root, io.Discard); err != nil {
			b.Fatal(err)
		}
		in.Release()
	}
	b.SetBytes(size)
}
