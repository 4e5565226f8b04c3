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
func cold(b *testing.B, o Options, f func(b *testing.B, dir string)) {
	if cannotMount != nil {
		b.Skip("cannot mount here: ", cannotMount)
	}
	dir := b.TempDir()
	for b.Loop() {
		b.StopTimer()
		s := remount(b, o, dir)
		b.StartTimer()
		f(b, dir)
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func warm(b *testing.B, o Options, f func(b *testing.B, dir string)) {
	m := mountTest(b, o)
	f(b, m.dir)
	for b.Loop() {
		f(b, m.dir)
	}
}

func both(b *testing.B, o Options, f func(b *testing.B, dir string)) {
	b.Run("cold", func(b *testing.B) { cold(b, o, f) })
	b.Run("warm", func(b *testing.B) { warm(b, o, f) })
}

func BenchmarkLookup(b *testing.B) {
	const n = 4000
	o := wideOptions(b, n)
	both(b, o, func(b *testing.B, dir string) {
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
	both(b, wideOptions(b, 100_000), func(b *testing.B, dir string) {
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
	read := func(b *testing.B, dir string) {
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
func tree(b *testing.B, f func(b *testing.B, dir string)) {
	o, disk := goTree(b)
	both(b, o, func(b *testing.B, dir string) { f(b, dir+"/src") })
	b.Run("disk", func(b *testing.B) {
		f(b, disk)
		for b.Loop() {
			f(b, disk)
		}
	})
}

func BenchmarkStatTree(b *testing.B) {
	tree(b, func(b *testing.B, dir string) {
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

func BenchmarkFind(b *testing.B) { tree(b, command("find", "-type", "f")) }

func BenchmarkTar(b *testing.B) { tree(b, command("tar", "-cf", "-")) }

// command runs a program on the tree; tar notices if it writes to /dev/null, so
// its output is read by cat.
func command(name string, args ...string) func(b *testing.B, dir string) {
	return func(b *testing.B, dir string) {
		script := `"$@" | cat >/dev/null`
		argv := append([]string{"-c", script, "sh", name}, args...)
		if name == "find" {
			argv = append([]string{"-c", script, "sh", name, dir}, args...)
		} else {
			argv = append(argv, "-C", dir, ".")
		}
		cmd := exec.Command("sh", argv...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s: %v: %s", name, err, out)
		}
		// On a busy machine the program's own time tells more than the clock.
		used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		b.ReportMetric(float64(used.Microseconds())/1000, "cpu-ms/last")
	}
}
