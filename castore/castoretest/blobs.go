package castoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	gosync "sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tvixd/tvixd/castore"
)

// sizes are lengths of blobs around which an implementation may change its ways.
var sizes = []int{0, 1, 2, 1023, 1024, 64<<10 - 1, 64 << 10, 64<<10 + 1, 256<<10 - 1, 256 << 10, 256<<10 + 1,
	1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 17}

func testBlobs(t *testing.T, suite Suite) {
	s := open(t, suite)
	var blobs [][]byte
	for i, n := range sizes {
		blobs = append(blobs, random(n, uint64(i)), text(n, uint64(i)), make([]byte, n))
	}
	check := func() {
		t.Helper()
		for _, data := range blobs {
			wantBlob(t, s, data)
			if !has(t, s, castore.Sum(data)) {
				t.Fatalf("Has is false for a blob of %d bytes", len(data))
			}
		}
	}
	for _, data := range blobs {
		put(t, s, data)
	}
	check()
	sync(t, s)
	check()
}

func testWriteSizes(t *testing.T, suite Suite) {
	s := open(t, suite)
	for i, n := range sizes {
		data := text(n, 100+uint64(i))
		for _, step := range []int{1 << 30, 100_000, 4096} {
			w, err := s.Create(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for rest := data; len(rest) > 0; {
				m := min(step, len(rest))
				// The writer must not keep the slice.
				p := bytes.Clone(rest[:m])
				if k, err := w.Write(p); k != m || err != nil {
					t.Fatalf("Write: %d, %v", k, err)
				}
				clear(p)
				rest = rest[m:]
			}
			d, size, err := w.Commit()
			if err != nil || d != castore.Sum(data) || size != uint64(n) {
				t.Fatalf("Commit of %d bytes: %v, %d, %v", n, d, size, err)
			}
			if err := w.Abort(); err != nil {
				t.Fatalf("Abort after Commit: %v", err)
			}
			wantBlob(t, s, data)
		}
	}
	if _, err := s.Has(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
}

func testReads(t *testing.T, suite Suite) {
	s := open(t, suite)
	for i, n := range sizes {
		data := text(n, 200+uint64(i))
		put(t, s, data)
		if i%2 == 0 {
			sync(t, s)
		}
		b, err := s.Open(context.Background(), castore.Sum(data))
		if err != nil {
			t.Fatal(err)
		}
		if b.Size() != uint64(n) {
			t.Fatalf("Size is %d, want %d", b.Size(), n)
		}
		var g errgroup.Group
		for k := range 4 {
			g.Go(func() error { return readRandomly(b, data, uint64(k)) })
		}
		if err := g.Wait(); err != nil {
			t.Fatalf("blob of %d bytes: %v", n, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// readRandomly compares reads of parts, also past the end, with the data.
func readRandomly(b castore.Blob, data []byte, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 2))
	want := bytes.NewReader(data)
	for range 50 {
		off := r.Int64N(int64(len(data)) + 2)
		size := r.IntN(1 << (1 + r.IntN(20)))
		got, exp := make([]byte, size), make([]byte, size)
		n, err := b.ReadAt(got, off)
		wantN, wantErr := want.ReadAt(exp, off)
		if n != wantN || !bytes.Equal(got[:n], exp[:n]) {
			return fmt.Errorf("ReadAt(%d bytes, %d) gives %d bytes, want %d", size, off, n, wantN)
		}
		// At the very end io.ReaderAt may return EOF or nil.
		if (err == io.EOF) != (wantErr == io.EOF) && n < size {
			return fmt.Errorf("ReadAt(%d bytes, %d): %v, want %v", size, off, err, wantErr)
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	if _, err := b.ReadAt(make([]byte, 1), -1); err == nil {
		return errors.New("ReadAt at a negative offset gives no error")
	}
	return nil
}

func testAbort(t *testing.T, suite Suite) {
	s := open(t, suite)
	for i, n := range sizes[1:] {
		data := random(n, 300+uint64(i))
		w, err := s.Create(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := w.Abort(); err != nil {
				t.Fatal(err)
			}
		}
		if has(t, s, castore.Sum(data)) {
			t.Fatalf("aborted blob of %d bytes is there", n)
		}
	}
}

func testNotFound(t *testing.T, suite Suite) {
	s := open(t, suite)
	d := castore.Sum([]byte("nobody put this"))
	put(t, s, []byte("but this"))
	for range 2 {
		if _, err := s.Open(context.Background(), d); !errors.Is(err, castore.ErrNotFound) {
			t.Fatalf("Open: got %v, want ErrNotFound", err)
		}
		if _, err := s.GetDirectory(context.Background(), d); !errors.Is(err, castore.ErrNotFound) {
			t.Fatalf("GetDirectory: got %v, want ErrNotFound", err)
		}
		if has(t, s, d) {
			t.Fatal("Has is true")
		}
		sync(t, s)
	}
	got, err := s.Has(context.Background(), []castore.Digest{d, castore.Sum([]byte("but this")), d})
	if err != nil || fmt.Sprint(got) != "[false true false]" {
		t.Fatalf("Has: %v, %v", got, err)
	}
}

func testIdempotent(t *testing.T, suite Suite) {
	s := open(t, suite)
	blobs := [][]byte{text(100, 1), text(200<<10, 2), random(2<<20, 3)}
	var before castore.Stats
	for round := range 3 {
		for _, data := range blobs {
			put(t, s, data)
			put(t, s, data)
		}
		sync(t, s)
		st, err := s.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if round > 0 && st != before {
			t.Fatalf("a put of what is there changed %+v to %+v", before, st)
		}
		before = st
	}
	for _, data := range blobs {
		wantBlob(t, s, data)
	}
}

func testConcurrentPuts(t *testing.T, suite Suite) {
	s := open(t, suite)
	var g errgroup.Group
	for k := range 8 {
		g.Go(func() error {
			for i := range 60 {
				n := i * 37
				if i%20 == 19 {
					n = 1<<20 + i
				}
				// Half of the blobs are the same for all.
				data := text(n, uint64(i)*1000+uint64(k*(i%2)))
				d, err := s.PutBlob(context.Background(), data)
				if err != nil {
					return err
				}
				if d != castore.Sum(data) {
					return fmt.Errorf("wrong digest")
				}
				got, err := read(s, d)
				if err != nil {
					return err
				}
				if !bytes.Equal(got, data) {
					return fmt.Errorf("blob %d reads as other bytes", i)
				}
				if i%10 == 0 {
					if err := s.Sync(context.Background()); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func testReadBeforeSync(t *testing.T, suite Suite) {
	s := open(t, suite)
	for i := range 200 {
		data := text(i*97, uint64(i))
		put(t, s, data)
		wantBlob(t, s, data)
		n := putDir(t, s, file("x", data))
		wantTree(t, s, n)
	}
}

func testCancel(t *testing.T, suite Suite) {
	s := open(t, suite)
	put(t, s, []byte("x"))
	ctx, cancel := context.WithCancel(context.Background())
	w, err := s.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Write([]byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Write: %v", err)
	}
	if _, _, err := w.Commit(); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: %v", err)
	}
	w.Abort()
	d := castore.Sum([]byte("x"))
	_, err1 := s.Has(ctx, []castore.Digest{d})
	_, err2 := s.Open(ctx, d)
	_, err3 := s.Create(ctx)
	_, err4 := s.PutBlob(ctx, []byte("y"))
	_, err5 := s.GetDirectory(ctx, d)
	_, err6 := s.PutDirectory(ctx, &castore.Directory{Entries: []castore.Entry{file("x", []byte("x"))}})
	_, err7 := s.Sweep(ctx, castore.LiveNodes{}, castore.SweepOptions{})
	_, err8 := s.Stats(ctx)
	err9 := s.Verify(ctx, func(castore.Problem) {})
	for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8, err9, s.Sync(ctx)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("call %d: got %v, want context.Canceled", i+1, err)
		}
	}
	wantBlob(t, s, []byte("x"))

	// In the middle of a large blob.
	ctx, cancel = context.WithCancel(context.Background())
	if w, err = s.Create(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if i == 8 {
			cancel()
		}
		if _, err = w.Write(random(512<<10, uint64(i))); err != nil {
			break
		}
	}
	if _, _, err := w.Commit(); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: %v", err)
	}
	w.Abort()
	cancel()
}

func testConcurrentSync(t *testing.T, suite Suite) {
	s := open(t, suite)
	var g errgroup.Group
	for k := range 16 {
		g.Go(func() error {
			for i := range 10 {
				if _, err := s.PutBlob(context.Background(), text(1000, uint64(k*100+i))); err != nil {
					return err
				}
				if err := s.Sync(context.Background()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	st, err := s.Stats(context.Background())
	if err != nil || st.Objects != 160 {
		t.Fatalf("Stats: %+v, %v; want 160 objects", st, err)
	}
}

func testStats(t *testing.T, suite Suite) {
	s := open(t, suite)
	want := uint64(0)
	for i := 1; i <= 50; i++ {
		put(t, s, random(i*1000, uint64(i)))
		want += uint64(i * 1000)
	}
	for range 2 {
		st, err := s.Stats(context.Background())
		if err != nil || st.Objects != 50 || st.ObjectBytes != want {
			t.Fatalf("Stats: %+v, %v; want 50 objects of %d bytes", st, err, want)
		}
		sync(t, s)
	}
	if st, _ := s.Stats(context.Background()); st.StoredBytes < want {
		t.Fatalf("StoredBytes is %d, want at least %d", st.StoredBytes, want)
	}
}

func testVerify(t *testing.T, suite Suite) {
	s := open(t, suite)
	if p := verify(t, s); len(p) > 0 {
		t.Fatalf("empty store has problems: %v", p)
	}
	put(t, s, random(3<<20, 1))
	for i := range 300 {
		put(t, s, text(i*300, uint64(i)))
	}
	if p := verify(t, s); len(p) > 0 {
		t.Fatalf("sound store has problems: %v", p)
	}
}

func testClosed(t *testing.T, suite Suite) {
	s := open(t, suite)
	put(t, s, []byte("x"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	var once gosync.Once
	for _, err := range []error{
		func() error { _, err := s.PutBlob(context.Background(), []byte("y")); return err }(),
		func() error { _, err := s.Open(context.Background(), castore.Sum([]byte("x"))); return err }(),
		func() error { _, err := s.Has(context.Background(), []castore.Digest{{}}); return err }(),
	} {
		if !errors.Is(err, castore.ErrClosed) {
			once.Do(func() { t.Errorf("got %v, want ErrClosed", err) })
		}
	}
}
