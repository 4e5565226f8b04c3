package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// scan returns the digests of the objects in a pack, and the number of damaged
// places.
func scan(tb testing.TB, path string) (found map[castore.Digest]Kind, damaged int) {
	tb.Helper()
	found = make(map[castore.Digest]Kind)
	err := ScanPack(path, func(r Record) error {
		for _, d := range r.Digests {
			found[d] = r.Kind
		}
		return nil
	}, func(int64, error) { damaged++ })
	if err != nil {
		tb.Fatal(err)
	}
	return found, damaged
}

func TestScanPack(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, nil)
	small, own, large := prose(100, 1), noise(100<<10, 2), noise(2<<20, 3)
	// A pack as a blob: what looks like records in it must not be taken for
	// any.
	decoy := slicesConcat(encodePackHeader(1, testSalt), record(KindData, CompressNone, 64, []byte("decoy")))
	for _, data := range [][]byte{small, own, large, decoy} {
		mustPut(t, s, data)
	}
	key := castore.Sum([]byte("key"))
	if err := s.AppendRecord(context.Background(), key, []byte("metadata")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	path := filepath.Join(dir, "packs", "000001.pack")
	want := map[castore.Digest]Kind{
		castore.Sum(small): KindData, castore.Sum(own): KindData, castore.Sum(large): KindRecipe, castore.Sum(decoy): KindData, key: KindPathInfo,
	}
	found, damaged := scan(t, path)
	for d, kind := range want {
		if found[d] != kind {
			t.Errorf("object %v is of kind %d, want %d", d, found[d], kind)
		}
	}
	if damaged != 0 || found[castore.Sum([]byte("decoy"))] != 0 {
		t.Errorf("%d damaged places, decoy of kind %d", damaged, found[castore.Sum([]byte("decoy"))])
	}
	// Without the pack's header, everything is still found.
	flip(t, path, 9)
	if again, damaged := scan(t, path); len(again) != len(found) || damaged != 1 {
		t.Errorf("without the header: %d objects of %d, %d damaged places", len(again), len(found), damaged)
	}
	// Without the first record, all others are.
	flip(t, path, packHeaderSize+1)
	if again, damaged := scan(t, path); len(again) >= len(found) || len(again) == 0 || damaged == 0 {
		t.Errorf("without the first record: %d objects of %d, %d damaged places", len(again), len(found), damaged)
	}
	stop := errors.New("stop")
	if err := ScanPack(path, func(Record) error { return stop }, nil); !errors.Is(err, stop) {
		t.Errorf("got %v, want the callback's error", err)
	}
	for _, bad := range []string{filepath.Join(dir, "lock"), filepath.Join(dir, "packs", "000009.pack")} {
		if err := ScanPack(bad, func(Record) error { return nil }, nil); err == nil {
			t.Errorf("ScanPack(%q) gives no error", bad)
		}
	}
}

func slicesConcat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestRebuild(t *testing.T) {
	dir := t.TempDir()
	small := func(o *Options) { o.PackBytes = 1 << 20 }
	s := openTest(t, dir, small)
	var blobs [][]byte
	for i := range uint64(6) {
		blobs = append(blobs, noise(200<<10, i), prose(1000, i), noise(2<<20, 100+i))
	}
	for _, data := range blobs {
		mustPut(t, s, data)
	}
	lost, broken := noise(200<<10, 0), noise(2<<20, 100)
	loc, _, err := func() (location, bool, error) {
		mustSync(t, s)
		return s.index.lookup(context.Background(), castore.Sum(lost))
	}()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := s.Stats(context.Background())
	// A chunk of the large blob, by its recipe.
	b, err := s.Open(context.Background(), castore.Sum(broken))
	if err != nil {
		t.Fatal(err)
	}
	chunk := b.(*largeBlob).recipe.digest(2)
	chunkLoc, _, err := s.index.lookup(context.Background(), chunk)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()

	rebuild := func() RebuildResult {
		t.Helper()
		db, err := sqldb.Open(filepath.Join(dir, "db.sqlite"), sqldb.Options{ReserveBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		res, err := Rebuild(context.Background(), Options{Dir: dir, DB: db})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	for _, dropDB := range []bool{false, true} {
		if dropDB {
			if err := os.Remove(filepath.Join(dir, "db.sqlite")); err != nil {
				t.Fatal(err)
			}
		}
		res := rebuild()
		if res.Objects != before.Objects || res.Packs != before.Packs || res.Dropped != 0 {
			t.Fatalf("Rebuild: %+v, want the numbers of %+v", res, before)
		}
		s = openTest(t, dir, small)
		mustReadAll(t, s, blobs)
		if p := problems(t, s); len(p) > 0 {
			t.Fatalf("after Rebuild, Verify found %v", p)
		}
		s.Close()
	}
	flip(t, s.packs.path(loc.at.pack), loc.at.offset+loc.at.length-1)
	flip(t, s.packs.path(chunkLoc.at.pack), chunkLoc.at.offset)
	res := rebuild()
	if res.Objects != before.Objects-3 || res.Dropped != 1 {
		t.Fatalf("Rebuild of a damaged store: %+v; before %+v", res, before)
	}
	s = openTest(t, dir, small)
	for _, data := range blobs {
		if bytes.Equal(data, lost) || bytes.Equal(data, broken) {
			if _, err := readBlob(s, castore.Sum(data)); !errors.Is(err, castore.ErrNotFound) {
				t.Fatalf("damaged blob: %v", err)
			}
			continue
		}
		mustRead(t, s, data)
	}
	for _, data := range blobs {
		mustPut(t, s, data)
	}
	mustReadAll(t, s, blobs)
}
