package store_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// ingestTree ingests the entry name of a folder.
func ingestTree(t testing.TB, s *store.Store, dir, name string, o store.TreeOptions) (*store.Ingested, error) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return s.IngestTree(t.Context(), int(d.Fd()), name, o)
}

func TestIngestTree(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, filepath.Join(dir, "tree"), 7, treeSpec{
		dirs: 40, files: 300, links: 30, maxSmall: 10_000, large: []int{1 << 20, 1<<20 + 1, 3 << 20},
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ref := path("ref")
	must(os.WriteFile(filepath.Join(dir, "file"), []byte("x/"+ref.Base()), 0o100))
	must(os.Symlink("../"+ref.Base(), filepath.Join(dir, "link")))
	must(os.WriteFile(filepath.Join(dir, "tree", "odd \xff name"), nil, 0o011))
	s := newStore(t)
	for _, name := range []string{"tree", "file", "link"} {
		in, err := ingestTree(t, s, dir, name, store.TreeOptions{Candidates: []storepath.Path{path("x"), ref}})
		if err != nil {
			t.Fatal(err)
		}
		dump := dumpPath(t, filepath.Join(dir, name))
		if in.NarHash != nixhash.Sum(nixhash.SHA256, dump) || in.NarSize != uint64(len(dump)) {
			t.Errorf("%s: NAR hash %v, size %d; want size %d", name, in.NarHash, in.NarSize, len(dump))
		}
		var b bytes.Buffer
		if err := s.WriteNAR(t.Context(), in.Root, &b); err != nil || !bytes.Equal(b.Bytes(), dump) {
			t.Errorf("%s: renders otherwise, error %v", name, err)
		}
		if (len(in.References) == 1) != (name != "tree") {
			t.Errorf("%s: references %v", name, in.References)
		}
		in.Release()
	}
}

func TestIngestTreeUnsupported(t *testing.T) {
	s := newStore(t)
	for name, mk := range map[string]func(string) error{
		"pipe": func(p string) error { return unix.Mkfifo(p, 0o644) },
		"socket": func(p string) error {
			// The path of a socket must be short, so it is bound where it is.
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			dir, err := os.Open(filepath.Dir(p))
			if err != nil {
				return err
			}
			defer dir.Close()
			l, err := net.Listen("unix", "/proc/self/fd/"+itoa(int(dir.Fd()))+"/"+filepath.Base(p))
			if err != nil {
				return err
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			return l.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			sub := filepath.Join(dir, "out", "sub")
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := mk(filepath.Join(sub, name)); err != nil {
				t.Fatal(err)
			}
			_, err := ingestTree(t, s, dir, "out", store.TreeOptions{Path: "/nix/store/xyz-out"})
			if !errors.Is(err, store.ErrUnsupportedFile) ||
				err.Error() != "file '/nix/store/xyz-out/sub/"+name+"' has an unsupported type" {
				t.Errorf("error %v", err)
			}
			if _, err := ingestTree(t, s, sub, name, store.TreeOptions{}); !errors.Is(err, store.ErrUnsupportedFile) {
				t.Errorf("as the root: error %v", err)
			}
		})
	}
	if _, err := ingestTree(t, s, t.TempDir(), "missing", store.TreeOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: error %v", err)
	}
}

func itoa(n int) string {
	if n >= 10 {
		return itoa(n/10) + itoa(n%10)
	}
	return string(rune('0' + n))
}

// TestIngestTreeChanging changes the tree under the walk, which calls Check
// before it reads each entry.
func TestIngestTreeChanging(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(dir string) error{
		"file grows": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "b"), bytes.Repeat([]byte("y"), 5000), 0o644)
		},
		"file becomes a link": func(dir string) error {
			return replaceBy(filepath.Join(dir, "b"), func(p string) error { return os.Symlink(secret, p) })
		},
		"file becomes a pipe": func(dir string) error {
			return replaceBy(filepath.Join(dir, "b"), func(p string) error { return unix.Mkfifo(p, 0o644) })
		},
		"file becomes a folder": func(dir string) error {
			return replaceBy(filepath.Join(dir, "b"), func(p string) error { return os.Mkdir(p, 0o755) })
		},
		"file goes": func(dir string) error { return os.Remove(filepath.Join(dir, "b")) },
		"other file comes": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "c"), nil, 0o644)
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			parent := t.TempDir()
			dir := filepath.Join(parent, "out")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			// Times that differ from now even where clocks are coarse.
			for _, f := range []string{"a", "b"} {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(strings.Repeat("x", 4000)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			old := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
			for _, f := range []string{dir, filepath.Join(dir, "b")} {
				if err := unix.UtimesNanoAt(unix.AT_FDCWD, f, old, 0); err != nil {
					t.Fatal(err)
				}
			}
			in, err := ingestTree(t, s, parent, "out", store.TreeOptions{
				Check: func(rel string, st *unix.Stat_t) error {
					if rel == "b" {
						return change(dir)
					}
					return nil
				},
			})
			if name == "file grows" {
				// Before the file was opened: then it is read as it is.
				if err != nil {
					t.Fatal(err)
				}
				in.Release()
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			if !errors.Is(err, store.ErrFileChanged) && !errors.Is(err, unix.ELOOP) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func replaceBy(p string, mk func(string) error) error {
	if err := os.Remove(p); err != nil {
		return err
	}
	return mk(p)
}

func TestIngestTreeCheck(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, filepath.Join(dir, "tree"), 3, treeSpec{dirs: 3, files: 10, links: 2, maxSmall: 10})
	var seen []string
	refused := errors.New("invalid ownership")
	s := newStore(t)
	in, err := ingestTree(t, s, dir, "tree", store.TreeOptions{Check: func(rel string, st *unix.Stat_t) error {
		if st.Uid != uint32(os.Getuid()) {
			t.Errorf("%s: owner %d", rel, st.Uid)
		}
		seen = append(seen, rel)
		return nil
	}})
	if err != nil || len(seen) != 16 || seen[0] != "" {
		t.Errorf("seen %q, error %v", seen, err)
	}
	in.Release()
	_, err = ingestTree(t, s, dir, "tree", store.TreeOptions{Check: func(rel string, _ *unix.Stat_t) error {
		if rel == seen[5] {
			return refused
		}
		return nil
	}})
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
}

// mkdirDeep makes folders below dir, deeper than a path can be long, with a
// file beside each.
func mkdirDeep(t testing.TB, dir string, depth int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(fd) }()
	t.Cleanup(func() { removeDeep(t, dir) })
	for range depth {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Symlinkat("x", fd, "e"); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
}

// removeDeep removes what mkdirDeep made. The removal of a test's own folder
// would take a descriptor a level.
func removeDeep(t testing.TB, dir string) {
	outer, inner := filepath.Join(dir, "d"), filepath.Join(dir, "inner")
	for {
		os.Remove(filepath.Join(outer, "e"))
		moved := os.Rename(filepath.Join(outer, "d"), inner)
		if err := os.Remove(outer); err != nil {
			t.Errorf("clean up: %v", err)
			return
		}
		if moved != nil {
			return
		}
		if err := os.Rename(inner, outer); err != nil {
			t.Errorf("clean up: %v", err)
			return
		}
	}
}

func TestIngestTreeDeep(t *testing.T) {
	s := newStore(t)
	parent := t.TempDir()
	mkdirDeep(t, parent, nar.MaxDepth+10)
	if _, err := ingestTree(t, s, parent, "d", store.TreeOptions{}); !errors.Is(err, nar.ErrMalformed) {
		t.Errorf("too deep: error %v", err)
	}

	// A deep one that is allowed, with few descriptors.
	parent = t.TempDir()
	mkdirDeep(t, parent, nar.MaxDepth-100)
	in, err := ingestTree(t, s, parent, "d", store.TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Release()
	dump := dumpPath(t, filepath.Join(parent, "d"))
	if in.NarHash != nixhash.Sum(nixhash.SHA256, dump) {
		t.Error("wrong NAR hash")
	}
}
