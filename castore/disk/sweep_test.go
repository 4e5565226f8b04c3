package disk

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

func fileNodes(blobs [][]byte) (live castore.LiveNodes) {
	for _, data := range blobs {
		live = append(live, castore.Node{Kind: castore.KindFile, Digest: castore.Sum(data), Size: uint64(len(data))})
	}
	return live
}

func mustSweep(tb testing.TB, s *testStore, live castore.LiveNodes, opts castore.SweepOptions) castore.SweepResult {
	tb.Helper()
	res, err := s.Sweep(context.Background(), live, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// TestCompaction sweeps random parts of a store with many packs and compares the
// space with what lives.
func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, func(o *Options) { o.PackBytes = 1 << 20 })
	r := rand.New(rand.NewPCG(1, 2))
	var blobs [][]byte
	for i := range uint64(400) {
		blobs = append(blobs, noise(1+r.IntN(40<<10), i))
	}
	for i := range uint64(5) {
		blobs = append(blobs, noise(1<<20+r.IntN(1<<20), 1000+i))
	}
	for _, data := range blobs {
		mustPut(t, s, data)
	}
	key := castore.Sum([]byte("key"))
	if err := s.AppendRecord(context.Background(), key, []byte("metadata")); err != nil {
		t.Fatal(err)
	}
	mustSync(t, s)
	handles := make(map[castore.Digest]castore.Blob)
	for len(blobs) > 0 {
		r.Shuffle(len(blobs), func(i, k int) { blobs[i], blobs[k] = blobs[k], blobs[i] })
		// Handles from before the sweep must go on reading.
		for _, data := range blobs {
			b, err := s.Open(context.Background(), castore.Sum(data))
			if err != nil {
				t.Fatal(err)
			}
			handles[castore.Sum(data)] = b
		}
		blobs = blobs[:len(blobs)/2]
		before := packBytes(t, s)
		var told uint64
		res := mustSweep(t, s, fileNodes(blobs), castore.SweepOptions{DeadFraction: 0.05, Progress: func(n uint64) { told = n }})
		after := packBytes(t, s)
		// Headers of new packs are not counted.
		if d := int64(res.FreedBytes) - (before - after); d < 0 || d > 50*packHeaderSize || told != res.FreedBytes {
			t.Errorf("FreedBytes is %d, Progress said %d; packs went from %d to %d bytes", res.FreedBytes, told, before, after)
		}
		var alive int64
		for _, data := range blobs {
			alive += int64(len(data))
			b := handles[castore.Sum(data)]
			got := make([]byte, len(data))
			if n, err := b.ReadAt(got, 0); n != len(got) || castore.Sum(got) != castore.Sum(data) {
				t.Fatalf("handle from before the sweep: %d bytes, %v", n, err)
			}
		}
		if limit := alive*12/10 + 200<<10; after > limit {
			t.Errorf("%d bytes live in packs of %d bytes", alive, after)
		}
		if p := problems(t, s); len(p) > 0 {
			t.Fatalf("Verify found %v", p)
		}
		s.Close()
		s = openTest(t, dir, func(o *Options) { o.PackBytes = 1 << 20 })
		mustReadAll(t, s, blobs)
	}
	// Records outlive all.
	found := false
	for _, id := range s.packs.ids() {
		kinds, _ := scan(t, s.packs.path(id))
		found = found || kinds[key] == KindPathInfo
	}
	if !found {
		t.Error("record is gone")
	}
}

func packBytes(tb testing.TB, s *testStore) (n int64) {
	tb.Helper()
	st, err := s.Stats(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return int64(st.StoredBytes)
}

// TestNoCompaction keeps packs in which anything lives.
func TestNoCompaction(t *testing.T) {
	s := openTest(t, t.TempDir(), func(o *Options) { o.PackBytes = 300 << 10 })
	var blobs [][]byte
	for i := range uint64(30) {
		blobs = append(blobs, noise(70<<10, i))
		mustPut(t, s, blobs[i])
	}
	mustSync(t, s)
	before := packBytes(t, s)
	res := mustSweep(t, s, fileNodes(blobs[:1]), castore.SweepOptions{DeadFraction: -1})
	mustRead(t, s, blobs[0])
	if st, _ := s.Stats(context.Background()); st.Packs != 1 || res.FreedBytes != uint64(before-packBytes(t, s)) {
		t.Errorf("%+v, %+v", st, res)
	}
}

// TestSweepDamaged sweeps around damaged blocks: they do not stop it, and a pack
// with a live damaged block stays as it is.
func TestSweepDamaged(t *testing.T) {
	s := openTest(t, t.TempDir(), nil)
	var blobs [][]byte
	for i := range uint64(10) {
		blobs = append(blobs, noise(100<<10, i))
		mustPut(t, s, blobs[i])
	}
	hurt(t, s, castore.Sum(blobs[0]))
	hurt(t, s, castore.Sum(blobs[5]))
	res := mustSweep(t, s, fileNodes(blobs[:2]), castore.SweepOptions{})
	if res.Dropped != 8 {
		t.Fatalf("Sweep: %+v", res)
	}
	mustRead(t, s, blobs[1])
	if _, err := readBlob(s, castore.Sum(blobs[0])); err == nil {
		t.Fatal("damaged blob reads")
	}
	mustPut(t, s, blobs[0])
	mustSync(t, s)
	mustSweep(t, s, fileNodes(blobs[:2]), castore.SweepOptions{})
	mustReadAll(t, s, blobs[:2])
	if n := packBytes(t, s); n > 250<<10 {
		t.Errorf("packs have %d bytes after healing", n)
	}
}

// TestInterruptedSweep opens stores as a process leaves them that is killed in the
// middle of a sweep.
func TestInterruptedSweep(t *testing.T) {
	blobs := [][]byte{noise(70<<10, 1), noise(70<<10, 2), prose(100, 3)}
	setup := func() *testStore {
		s := openTest(t, t.TempDir(), func(o *Options) { o.PackBytes = 80 << 10 })
		for _, data := range blobs {
			mustPut(t, s, data)
			mustSync(t, s)
		}
		return s
	}
	change := func(s *testStore, query string) {
		t.Helper()
		err := s.index.db.Write(context.Background(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(query)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, interrupt := range map[string]func(s *testStore){
		"dead pack unlinked": func(s *testStore) { os.Remove(s.packs.path(1)) },
		"blocks deleted":     func(s *testStore) { change(s, "DELETE FROM castore_blocks WHERE pack = 1") },
		"pack emptied": func(s *testStore) {
			change(s, "DELETE FROM castore_blocks WHERE pack = 1")
			change(s, "UPDATE castore_packs SET dead = 1 WHERE id = 1")
		},
	} {
		s := setup()
		interrupt(s)
		s.Close()
		s = openTest(t, s.options.Dir, nil)
		mustReadAll(t, s, blobs[1:])
		mustPut(t, s, blobs[0])
		mustSync(t, s)
		mustReadAll(t, s, blobs)
		mustSweep(t, s, fileNodes(blobs), castore.SweepOptions{DeadFraction: 0.1})
		mustReadAll(t, s, blobs)
		if p := problems(t, s); len(p) > 0 {
			t.Errorf("%s: Verify found %v", name, p)
		}
		files, err := filepath.Glob(filepath.Join(s.options.Dir, "packs", "*"))
		if st, _ := s.Stats(context.Background()); err != nil || len(files) != int(st.Packs) {
			t.Errorf("%s: %d files for %d packs", name, len(files), st.Packs)
		}
	}
}

// TestSweepManyObjects crosses the limits of batches.
func TestSweepManyObjects(t *testing.T) {
	s := openTest(t, t.TempDir(), nil)
	const n = 3*scanStep + 17
	var live castore.LiveNodes
	for i := range n {
		data := prose(20+i%5, uint64(i))
		d := mustPut(t, s, data)
		if i%3 == 0 {
			live = append(live, castore.Node{Kind: castore.KindFile, Digest: d})
		}
	}
	mustSync(t, s)
	res := mustSweep(t, s, live, castore.SweepOptions{})
	if res.Live != uint64(len(live)) || res.Dropped != n-uint64(len(live)) {
		t.Fatalf("Sweep: %+v of %d objects", res, n)
	}
	for i := range n {
		has, err := s.Has(context.Background(), []castore.Digest{castore.Sum(prose(20+i%5, uint64(i)))})
		if err != nil || has[0] != (i%3 == 0) {
			t.Fatalf("object %d: %v, %v", i, has, err)
		}
	}
	if res := mustSweep(t, s, nil, castore.SweepOptions{}); res.Dropped != uint64(len(live)) {
		t.Fatalf("Sweep: %+v", res)
	}
}
