package store_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	cmemory "github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	pmemory "github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

func TestAddNARRoundTrip(t *testing.T) {
	tests := map[string][]byte{
		"empty file":      file(t, ""),
		"small file":      file(t, "hello"),
		"file of a piece": file(t, strings.Repeat("x", 1<<20)),
		"large file":      file(t, strings.Repeat("0123456789abcde\n", 200_000)),
		"executable":      events(t, nar.Header{Kind: nar.Regular, Size: 1, Executable: true}, "x"),
		"link":            events(t, nar.Header{Kind: nar.Symlink, Target: "../\xff"}),
		"empty directory": events(t, nar.Header{Kind: nar.Directory}, nar.Header{Kind: nar.EndDirectory}),
		"odd names": events(t, nar.Header{Kind: nar.Directory},
			nar.Header{Name: "\x01", Kind: nar.Symlink, Target: "x"},
			nar.Header{Name: ")", Kind: nar.Directory},
			nar.Header{Name: "-rf", Kind: nar.Regular, Size: 1}, "y",
			nar.Header{Kind: nar.EndDirectory},
			nar.Header{Name: "entry", Kind: nar.Directory},
			nar.Header{Kind: nar.EndDirectory},
			nar.Header{Name: strings.Repeat("n", 255), Kind: nar.Regular},
			nar.Header{Name: "\xff", Kind: nar.Symlink, Target: strings.Repeat("t", 4095)},
			nar.Header{Kind: nar.EndDirectory}),
		"tree": treeDump(t),
	}
	for name, dump := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			addNAR(t, s, path("p"), dump)
			checkNAR(t, s, path("p"), dump)
		})
	}
}

// TestAddNARReaders checks that readers of all manners give the same, and that
// nothing behind the NAR is taken from a *bufio.Reader.
func TestAddNARReaders(t *testing.T) {
	dump := treeDump(t)
	readers := map[string]func(io.Reader) io.Reader{
		"plain":    func(r io.Reader) io.Reader { return r },
		"halves":   iotest.HalfReader,
		"data+EOF": iotest.DataErrReader,
	}
	for name, wrap := range readers {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			err := s.AddNAR(t.Context(), claim(path("p"), dump), wrap(bytes.NewReader(dump)), store.AddOptions{})
			if err != nil {
				t.Fatal(err)
			}
			checkNAR(t, s, path("p"), dump)
		})
	}
	t.Run("bytes", func(t *testing.T) {
		s := newStore(t)
		dump := events(t, nar.Header{Kind: nar.Directory},
			nar.Header{Name: "f", Kind: nar.Regular, Size: 3}, "abc", nar.Header{Kind: nar.EndDirectory})
		r := iotest.OneByteReader(bytes.NewReader(dump))
		if err := s.AddNAR(t.Context(), claim(path("p"), dump), r, store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
		checkNAR(t, s, path("p"), dump)
	})
	t.Run("behind the end", func(t *testing.T) {
		s := newStore(t)
		r := bufio.NewReader(io.MultiReader(bytes.NewReader(dump), strings.NewReader("next")))
		if err := s.AddNAR(t.Context(), claim(path("p"), dump), r, store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(r); err != nil || string(rest) != "next" {
			t.Errorf("rest %q, error %v", rest, err)
		}
	})
}

func TestAddNARRefused(t *testing.T) {
	dump := file(t, "hello")
	other := nixhash.Sum(nixhash.SHA256, nil)
	ca := storepath.ContentAddress{Method: storepath.NAR, Hash: nixhash.Sum(nixhash.SHA256, dump)}
	caPath, err := storepath.DefaultDir.FromContentAddress("p", ca, storepath.References{})
	if err != nil {
		t.Fatal(err)
	}
	flat := storepath.ContentAddress{Method: storepath.Flat, Hash: other}
	flatPath, err := storepath.DefaultDir.FromContentAddress("p", flat, storepath.References{})
	if err != nil {
		t.Fatal(err)
	}
	full := "/nix/store/" + path("p").Base()
	tests := []struct {
		name   string
		change func(*pathinfo.PathInfo)
		want   string
	}{
		{"hash", func(i *pathinfo.PathInfo) { i.NarHash = other },
			"hash mismatch importing path '" + full + "';\n  specified: " + other.String() +
				"\n  got:       " + nixhash.Sum(nixhash.SHA256, dump).String()},
		{"size", func(i *pathinfo.PathInfo) { i.NarSize = 7 },
			"size mismatch importing path '" + full + "';\n  specified: 7\n  got:       120"},
		{"no size", func(i *pathinfo.PathInfo) { i.NarSize = 0 }, "size mismatch importing path"},
		{"reference", func(i *pathinfo.PathInfo) { i.References = []storepath.Path{path("missing")} },
			"path '/nix/store/" + path("missing").Base() + "' is not valid"},
		{"content address", func(i *pathinfo.PathInfo) { i.CA = ca },
			"cannot add path '" + full + "' to the Nix store because it claims to be content-addressed but isn't"},
		{"contents", func(i *pathinfo.PathInfo) { i.Path, i.CA = flatPath, flat },
			"ca hash mismatch importing path '/nix/store/" + flatPath.Base() + "';\n  specified: " + other.String() +
				"\n  got:       " + nixhash.Sum(nixhash.SHA256, []byte("hello")).String()},
		{"good content address", func(i *pathinfo.PathInfo) { i.Path, i.CA = caPath, ca }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			info := claim(path("p"), dump)
			tt.change(&info)
			err := s.AddNAR(t.Context(), info, bytes.NewReader(dump), store.AddOptions{})
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if isValid(t, s, info.Path) {
				t.Error("path is valid")
			}
			if len(s.TempRoots()) > 0 {
				t.Error("a lease is left")
			}
		})
	}
}

// badNARs are archives that must be refused.
func badNARs(t testing.TB) map[string][]byte {
	good := events(t, nar.Header{Kind: nar.Directory},
		nar.Header{Name: "aaaaaaaa", Kind: nar.Regular, Size: 8}, "contents",
		nar.Header{Name: "bbbbbbbb", Kind: nar.Symlink, Target: "target"},
		nar.Header{Kind: nar.EndDirectory})
	replace := func(old, new string) []byte {
		b := bytes.ReplaceAll(good, []byte(old), []byte(new))
		if bytes.Equal(b, good) || len(b) != len(good) {
			t.Fatalf("cannot replace %q", old)
		}
		return b
	}
	deep := func(n int) []byte {
		var b bytes.Buffer
		b.Write(str("nix-archive-1"))
		for range n {
			for _, s := range []string{"(", "type", "directory", "entry", "(", "name", "d", "node"} {
				b.Write(str(s))
			}
		}
		return b.Bytes()
	}
	return map[string][]byte{
		"nothing":       {},
		"no NAR":        []byte("this is not an archive at all, is it?"),
		"cut short":     good[:len(good)-8],
		"cut in a file": good[:bytes.Index(good, []byte("contents"))+20],
		"order":         replace("aaaaaaaa", "cccccccc"),
		"duplicate":     replace("aaaaaaaa", "bbbbbbbb"),
		"slash":         replace("aaaaaaaa", "aaa/aaaa"),
		"NUL":           replace("aaaaaaaa", "aaa\x00aaaa"),
		"dot dot":       replace("\x08\x00\x00\x00\x00\x00\x00\x00aaaaaaaa", "\x02\x00\x00\x00\x00\x00\x00\x00..\x00\x00\x00\x00\x00\x00"),
		"padding":       replace("target\x00\x00", "target\x00\x01"),
		"huge string":   replace("\x08\x00\x00\x00\x00\x00\x00\x00aaaaaaaa", "\x00\x00\x00\x00\x00\x00\x00\x80aaaaaaaa"),
		"huge file":     append(str("nix-archive-1", "(", "type", "regular", "contents"), "\xf8\xff\xff\xff\xff\xff\xff\x7f"...),
		"10,000 deep":   deep(10_000),
		"random tail":   append(good[:len(good)-16:len(good)-16], "nonsense"...),
	}
}

// str encodes strings of the NAR format.
func str(list ...string) []byte {
	var b []byte
	for _, s := range list {
		b = append(b, byte(len(s)), 0, 0, 0, 0, 0, 0, 0)
		b = append(b, s...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func TestAddNARBad(t *testing.T) {
	for name, dump := range badNARs(t) {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			err := s.AddNAR(t.Context(), claim(path("p"), dump), bytes.NewReader(dump), store.AddOptions{})
			if err == nil {
				t.Fatal("accepted")
			}
			if isValid(t, s, path("p")) {
				t.Error("path is valid")
			}
			// The store works on, and is whole.
			addNAR(t, s, path("p"), file(t, "x"))
			checkWhole(t, s)
		})
	}
}

func checkWhole(t testing.TB, s *store.Store) {
	t.Helper()
	err := s.VerifyAll(t.Context(), store.VerifyOptions{CheckContents: true}, func(p store.Problem) {
		t.Errorf("problem: %v", p.Err)
	})
	if err != nil {
		t.Errorf("VerifyAll: %v", err)
	}
}

// TestAddNARVanishingReader cuts the stream at many places.
func TestAddNARVanishingReader(t *testing.T) {
	dump := treeDump(t)
	gone := errors.New("client has gone")
	s := newStore(t)
	for cut := 0; cut < len(dump); cut += len(dump)/12 + 1 {
		r := io.MultiReader(bytes.NewReader(dump[:cut]), iotest.ErrReader(gone))
		err := s.AddNAR(t.Context(), claim(path("p"), dump), r, store.AddOptions{})
		if !errors.Is(err, gone) {
			t.Fatalf("cut at %d: error %v", cut, err)
		}
	}
	if isValid(t, s, path("p")) {
		t.Error("path is valid")
	}
	addNAR(t, s, path("p"), dump)
	checkNAR(t, s, path("p"), dump)
}

func TestAddNARCancelled(t *testing.T) {
	dump := treeDump(t)
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	// The reader stands still in the middle until the context has ended.
	r := io.MultiReader(bytes.NewReader(dump[:len(dump)/2]), readerFunc(func([]byte) (int, error) {
		cancel()
		<-ctx.Done()
		return 0, ctx.Err()
	}))
	if err := s.AddNAR(ctx, claim(path("p"), dump), r, store.AddOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAddNARBrokenCastore(t *testing.T) {
	dump := treeDump(t)
	full := errors.New("no space left on device")
	var n atomic.Int32
	failAt := func(k int32) func() error {
		n.Store(0)
		return func() error {
			if n.Add(1) >= k {
				return full
			}
			return nil
		}
	}
	for name, broken := range map[string]*brokenCastore{
		"first blob":      {putBlob: failAt(1)},
		"some blob":       {putBlob: failAt(100)},
		"first directory": {putDir: failAt(1)},
		"some directory":  {putDir: failAt(20)},
		"sync":            {sync: failAt(1)},
	} {
		t.Run(name, func(t *testing.T) {
			n.Store(0)
			broken.Store = cmemory.New()
			s := store.New(store.Options{Castore: broken, PathInfo: pmemory.New()})
			err := s.AddNAR(t.Context(), claim(path("p"), dump), bytes.NewReader(dump), store.AddOptions{})
			if !errors.Is(err, full) {
				t.Errorf("error %v", err)
			}
			if isValid(t, s, path("p")) {
				t.Error("path is valid")
			}
		})
	}
}

// TestAddNARValid checks that a valid path is not read again.
func TestAddNARValid(t *testing.T) {
	s := newStore(t)
	dump := file(t, "x")
	addNAR(t, s, path("p"), dump)
	untouchable := readerFunc(func([]byte) (int, error) {
		t.Error("the NAR of a valid path is read")
		return 0, io.EOF
	})
	if err := s.AddNAR(t.Context(), claim(path("p"), dump), untouchable, store.AddOptions{}); err != nil {
		t.Error(err)
	}
}

func TestAddNARRepair(t *testing.T) {
	s := newStore(t)
	addNAR(t, s, path("dep"), file(t, "dep"))
	addNAR(t, s, path("p"), file(t, "old"))
	dump := file(t, "new")
	info := claim(path("p"), dump, path("dep"))
	if err := s.AddNAR(t.Context(), info, bytes.NewReader(dump), store.AddOptions{Repair: true}); err != nil {
		t.Fatal(err)
	}
	checkNAR(t, s, path("p"), dump)
	got, err := s.PathInfo().Get(t.Context(), path("p"))
	if err != nil || got.NarHash != info.NarHash || !got.HasReference(path("dep")) {
		t.Errorf("info %+v, error %v", got, err)
	}
}

func TestAddNARConcurrently(t *testing.T) {
	s := newStore(t)
	dump := treeDump(t)
	var added atomic.Int32
	s.Listen(store.Listener{Added: func(paths []storepath.Path) { added.Add(int32(len(paths))) }})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			info := claim(path("p"), dump)
			if err := s.AddNAR(t.Context(), info, bytes.NewReader(dump), store.AddOptions{}); err != nil {
				t.Errorf("AddNAR: %v", err)
			}
		})
	}
	wg.Wait()
	checkNAR(t, s, path("p"), dump)
	if added.Load() == 0 {
		t.Error("the listener was not told")
	}
	if len(s.TempRoots()) > 0 {
		t.Error("a lease is left")
	}
}
