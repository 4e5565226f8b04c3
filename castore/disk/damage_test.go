package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// flip changes a byte of a file.
func flip(tb testing.TB, path string, off int64) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		tb.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b, off); err != nil {
		tb.Fatal(err)
	}
}

// noise returns n bytes that do not compress.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(b)
	return b
}

// prose returns n bytes that compress.
func prose(n int, seed uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "line %d of a text\n", seed), n/16+1)[:n]
}

func mustPut(tb testing.TB, s *testStore, data []byte) castore.Digest {
	tb.Helper()
	d, err := s.PutBlob(context.Background(), data)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func mustSync(tb testing.TB, s *testStore) {
	tb.Helper()
	if err := s.Sync(context.Background()); err != nil {
		tb.Fatal(err)
	}
}

func mustRead(tb testing.TB, s *testStore, data []byte) {
	tb.Helper()
	got, err := readBlob(s, castore.Sum(data))
	if err != nil {
		tb.Fatalf("read blob of %d bytes: %v", len(data), err)
	}
	if !bytes.Equal(got, data) {
		tb.Fatalf("blob of %d bytes reads as other bytes", len(data))
	}
}

func readBlob(s *testStore, d castore.Digest) ([]byte, error) {
	b, err := s.Open(context.Background(), d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	var buf bytes.Buffer
	if _, err := b.WriteTo(&buf); err != nil {
		return nil, err
	}
	// The other way to read must agree.
	at := make([]byte, b.Size())
	if n, err := b.ReadAt(at, 0); n < len(at) || err != nil && err != io.EOF {
		return nil, err
	}
	if !bytes.Equal(at, buf.Bytes()) {
		return nil, errors.New("ReadAt and WriteTo differ")
	}
	return buf.Bytes(), nil
}

func problems(tb testing.TB, s *testStore) map[castore.Digest]error {
	tb.Helper()
	found := make(map[castore.Digest]error)
	err := s.Verify(context.Background(), func(p castore.Problem) { found[p.Digest] = p.Err })
	if err != nil {
		tb.Fatalf("Verify: %v", err)
	}
	return found
}

// TestEveryField damages a pack in every field of its header and of a record of
// each kind: whatever is hit, reads give the right bytes or an error.
func TestEveryField(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, nil)
	blobs := [][]byte{prose(100, 1), noise(100, 2), prose(70<<10, 3), noise(70<<10, 4), noise(1<<20+50, 5), prose(2<<20, 6)}
	for _, data := range blobs {
		mustPut(t, s, data)
	}
	s.Close()
	path := filepath.Join(dir, "packs", "000001.pack")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	offsets := []int64{0, 8, 12, 16, 24, 40, 60, 63}
	type shape struct {
		kind Kind
		many bool
	}
	seen := make(map[shape]bool)
	err = ScanPack(path, func(r Record) error {
		sh := shape{r.Kind, len(r.Digests) > 1}
		if seen[sh] {
			return nil
		}
		seen[sh] = true
		for _, field := range []int64{0, 4, 5, 6, 8, 15, 16, 24, 28, 32, 36, 40, 44} {
			offsets = append(offsets, r.Offset+field)
		}
		table := r.Offset + recordHeaderSize
		offsets = append(offsets, table, table+31, table+32, table+39, table+40, r.Offset+r.Length-1)
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range offsets {
		flip(t, path, off)
		s := openTest(t, dir, nil)
		failed := 0
		for _, data := range blobs {
			switch got, err := readBlob(s, castore.Sum(data)); {
			case err == nil && !bytes.Equal(got, data):
				t.Fatalf("with byte %d changed, a blob of %d bytes reads as other bytes", off, len(data))
			case err == nil:
			case errors.Is(err, castore.ErrCorrupt):
				failed++
			default:
				t.Fatalf("with byte %d changed: %v", off, err)
			}
		}
		if off >= packHeaderSize && failed == 0 {
			t.Errorf("a change of byte %d goes unnoticed", off)
		}
		if len(problems(t, s)) == 0 {
			t.Errorf("Verify does not notice a change of byte %d", off)
		}
		s.Close()
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustReadAll(t, openTest(t, dir, nil), blobs)
}

func mustReadAll(tb testing.TB, s *testStore, blobs [][]byte) {
	tb.Helper()
	for _, data := range blobs {
		mustRead(tb, s, data)
	}
}

// TestTruncatedPack cuts committed data off: the rest reads, and puts go on.
func TestTruncatedPack(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, nil)
	first, second := noise(200<<10, 1), noise(200<<10, 2)
	mustPut(t, s, first)
	mustSync(t, s)
	mustPut(t, s, second)
	s.Close()
	path := filepath.Join(dir, "packs", "000001.pack")
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{fi.Size() - 1, fi.Size() - 150<<10} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		s := openTest(t, dir, nil)
		mustRead(t, s, first)
		if _, err := readBlob(s, castore.Sum(second)); !errors.Is(err, castore.ErrCorrupt) {
			t.Fatalf("cut off blob: %v", err)
		}
		if found := problems(t, s); found[castore.Sum(second)] == nil || len(found) != 1 {
			t.Fatalf("Verify found %v", found)
		}
		s.Close()
	}
	s = openTest(t, dir, nil)
	mustPut(t, s, second)
	mustPut(t, s, noise(1000, 3))
	mustSync(t, s)
	mustReadAll(t, s, [][]byte{first, second, noise(1000, 3)})
	if found := problems(t, s); len(found) > 0 {
		t.Fatalf("after healing, Verify found %v", found)
	}
}

// TestMissingPack removes a whole pack.
func TestMissingPack(t *testing.T) {
	dir := t.TempDir()
	small := func(o *Options) { o.PackBytes = 100 << 10 }
	s := openTest(t, dir, small)
	var blobs [][]byte
	for i := range uint64(4) {
		blobs = append(blobs, noise(90<<10, i))
		mustPut(t, s, blobs[i])
		mustSync(t, s)
	}
	s.Close()
	if err := os.Remove(filepath.Join(dir, "packs", "000002.pack")); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, dir, small)
	if _, err := readBlob(s, castore.Sum(blobs[1])); !errors.Is(err, castore.ErrNotFound) {
		t.Fatalf("blob of the missing pack: %v", err)
	}
	mustReadAll(t, s, [][]byte{blobs[0], blobs[2], blobs[3]})
	mustPut(t, s, blobs[1])
	mustReadAll(t, s, blobs)
}

// TestPackRemovedUnderneath removes a pack while the store is open.
func TestPackRemovedUnderneath(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, nil)
	data := noise(100<<10, 1)
	mustPut(t, s, data)
	s.Close()
	s = openTest(t, dir, nil)
	if err := os.Remove(filepath.Join(dir, "packs", "000001.pack")); err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(s, castore.Sum(data)); !errors.Is(err, castore.ErrCorrupt) {
		t.Fatalf("blob of the removed pack: %v", err)
	}
	if found := problems(t, s); found[castore.Sum(data)] == nil {
		t.Fatalf("Verify found %v", found)
	}
}

// TestWrongIndex makes rows point to wrong places: that must be noticed.
func TestWrongIndex(t *testing.T) {
	blobs := [][]byte{noise(1000, 1), noise(1000, 2), noise(100<<10, 3), noise(100<<10, 4), noise(2<<20, 5), noise(2<<20, 6)}
	for _, change := range []string{
		"UPDATE castore_objects SET slot = 1 - slot WHERE size = 1000",
		"UPDATE castore_objects SET slot = slot + 1000000",
		"UPDATE castore_objects SET block = (SELECT max(id) FROM castore_blocks) - block + 1",
		"UPDATE castore_objects SET size = size + 1",
		"UPDATE castore_blocks SET offset = offset + 1",
		"UPDATE castore_blocks SET length = length - 1",
		"UPDATE castore_blocks SET length = -1",
		"UPDATE castore_blocks SET length = 1 << 40",
		"UPDATE castore_blocks SET kind = 3 - kind",
	} {
		s := openTest(t, t.TempDir(), nil)
		for _, data := range blobs {
			mustPut(t, s, data)
		}
		mustSync(t, s)
		err := s.index.db.Write(context.Background(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(change)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for _, data := range blobs {
			got, err := readBlob(s, castore.Sum(data))
			if err == nil && !bytes.Equal(got, data) {
				t.Fatalf("%s: a blob reads as other bytes", change)
			}
			if err != nil {
				failed++
				if !errors.Is(err, castore.ErrCorrupt) {
					t.Errorf("%s: %v", change, err)
				}
			}
		}
		if failed == 0 {
			t.Errorf("%s: goes unnoticed", change)
		}
		s.Close()
	}
}

// TestRecipeOfWrongChunks has a recipe whose checksums are right, and whose
// chunks are there, but which makes another blob.
func TestRecipeOfWrongChunks(t *testing.T) {
	s := openTest(t, t.TempDir(), nil)
	a, b := noise(100<<10, 1), noise(100<<10, 2)
	da, db := mustPut(t, s, a), mustPut(t, s, b)
	var r recipeBuilder
	for _, d := range []castore.Digest{da, db} {
		slot, _ := r.next(100 << 10)
		r.set(slot, d)
	}
	wrong := castore.Sum([]byte("something else"))
	if err := s.putOwn(context.Background(), wrong, KindRecipe, 200<<10, r.entries); err != nil {
		t.Fatal(err)
	}
	if found := problems(t, s); !errors.Is(found[wrong], castore.ErrCorrupt) || len(found) != 1 {
		t.Fatalf("Verify found %v", found)
	}
	// A chunk of another length than the recipe says.
	r = recipeBuilder{}
	for _, d := range []castore.Digest{da, db} {
		slot, _ := r.next(100<<10 + 1)
		r.set(slot, d)
	}
	if err := s.putOwn(context.Background(), castore.Digest{1}, KindRecipe, 200<<10+2, r.entries); err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(s, castore.Digest{1}); !errors.Is(err, castore.ErrCorrupt) {
		t.Fatalf("recipe with wrong lengths: %v", err)
	}
}
