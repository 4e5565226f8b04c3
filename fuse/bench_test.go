package fuse

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/fuse/fusetest"
)

// remount gives a mount of which the kernel knows nothing yet.
func remount(b *testing.B, o Options, dir string) *Server {
	b.Helper()
	o.Mountpoint = dir
	s, err := Mount(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// cold runs f on a fresh mount each time, warm on one that was used before.
func cold(b *testing.B, o Options, f func(dir string)) {
	if cannotMount != nil {
		b.Skip("cannot mount here: ", cannotMount)
	}
	dir := b.TempDir()
	for b.Loop() {
		b.StopTimer()
		s := remount(b, o, dir)
		b.StartTimer()
		f(dir)
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func warm(b *testing.B, o Options, f func(dir string)) {
	m := mountTest(b, o)
	f(m.dir)
	for b.Loop() {
		f(m.dir)
	}
}

func both(b *testing.B, o Options, f func(dir string)) {
	b.Run("cold", func(b *testing.B) { cold(b, o, f) })
	b.Run("warm", func(b *testing.B) { warm(b, o, f) })
}

func BenchmarkLookup(b *testing.B) {
	const n = 4000
	o := wideOptions(b, n)
	both(b, o, func(dir string) {
		var st syscall.Stat_t
		for i := range n {
			if err := syscall.Lstat(fmt.Sprintf("%s/wide/entry-%06d", dir, i), &st); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(n, "lookups/op")
	})
}

func wideOptions(b *testing.B, n int) Options {
	b.Helper()
	store := memory.New()
	dir := &castore.Directory{}
	for i := range n {
		d, err := store.PutBlob(context.Background(), []byte(fmt.Sprint(i)))
		if err != nil {
			b.Fatal(err)
		}
		dir.Entries = append(dir.Entries, castore.Entry{Name: fmt.Sprintf("entry-%06d", i), Node: castore.Node{Kind: castore.KindFile, Digest: d, Size: uint64(len(fmt.Sprint(i)))}})
	}
	d, err := store.PutDirectory(context.Background(), dir)
	if err != nil {
		b.Fatal(err)
	}
	roots := fusetest.NewRoots(map[string]castore.Node{"wide": {Kind: castore.KindDirectory, Digest: d, Size: uint64(n)}})
	return Options{Castore: store, Roots: roots, DistinctDirectories: true}
}

func BenchmarkListWide(b *testing.B) {
	both(b, wideOptions(b, 100_000), func(dir string) {
		entries, err := os.ReadDir(dir + "/wide")
		if err != nil || len(entries) != 100_000 {
			b.Fatal(len(entries), err)
		}
	})
}

func BenchmarkSequentialRead(b *testing.B) {
	store := memory.New()
	const size = 256 << 20
	w, err := store.Create(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	piece := make([]byte, 1<<20)
	for i := range size / len(piece) {
		piece[i] = byte(i)
		if _, err := w.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	d, n, err := w.Commit()
	if err != nil {
		b.Fatal(err)
	}
	roots := fusetest.NewRoots(map[string]castore.Node{"large": {Kind: castore.KindFile, Digest: d, Size: n}})
	buf := make([]byte, 256<<10)
	read := func(dir string) {
		f, err := os.Open(dir + "/large")
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf); err != nil || n != size {
			b.Fatal(n, err)
		}
		b.SetBytes(size)
	}
	both(b, Options{Castore: store, Roots: roots}, read)
}

// goTree is the sources of Go in packs, and as files on the disk.
func goTree(b *testing.B) (o Options, disk string) {
	b.Helper()
	disk = filepath.Join(goRoot(b), "src")
	store := packStore(b)
	n, err := fusetest.Import(context.Background(), store, disk)
	if err != nil {
		b.Fatal(err)
	}
	if err := store.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	roots := fusetest.NewRoots(map[string]castore.Node{"src": n})
	return Options{Castore: store, Roots: roots, DistinctDirectories: true, ListRoot: true}, disk
}

// tree runs a benchmark of a whole tree: on a mount cold and warm, and on the
// disk with all in the page cache.
func tree(b *testing.B, f func(dir string)) {
	o, disk := goTree(b)
	both(b, o, func(dir string) { f(dir + "/src") })
	b.Run("disk", func(b *testing.B) {
		f(disk)
		for b.Loop() {
			f(disk)
		}
	})
}

func BenchmarkStatTree(b *testing.B) {
	tree(b, func(dir string) {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			_, err = os.Lstat(path)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkFind(b *testing.B) { tree(b, command(b, "find", "-type", "f")) }

func BenchmarkTar(b *testing.B) { tree(b, command(b, "tar", "-cf", "-")) }

// command runs a program on the tree; tar notices if it writes to /dev/null, so
// its output is read by cat.
func command(b *testing.B, name string, args ...string) func(dir string) {
	return func(dir string) {
		script := `"$@" | cat >/dev/null`
		argv := append([]string{"-c", script, "sh", name}, args...)
		if name == "find" {
			argv = append([]string{"-c", script, "sh", name, dir}, args...)
		} else {
			argv = append(argv, "-C", dir, ".")
		}
		if out, err := exec.Command("sh", argv...).CombinedOutput(); err != nil {
			b.Fatalf("%s: %v: %s", name, err, out)
		}
	}
}
