package rmtree

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func openDir(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestRemoveAt(t *testing.T) {
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	for name, make := range map[string]func(t *testing.T, path string){
		"missing": func(*testing.T, string) {},
		"file":    write,
		"link to a folder": func(t *testing.T, path string) {
			if err := os.Symlink("../kept", path); err != nil {
				t.Fatal(err)
			}
		},
		"fifo": func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"tree": func(t *testing.T, path string) {
			for i := range 20 {
				for j := range 20 {
					write(t, filepath.Join(path, strconv.Itoa(i), strconv.Itoa(j), "file"))
				}
			}
			if err := os.Symlink("/", filepath.Join(path, "root")); err != nil {
				t.Fatal(err)
			}
		},
		"many entries": func(t *testing.T, path string) {
			for i := range 1500 {
				write(t, filepath.Join(path, strconv.Itoa(i)))
			}
		},
		"closed folders": func(t *testing.T, path string) {
			write(t, filepath.Join(path, "a", "b", "c"))
			for _, d := range []string{"a/b", "a", ""} {
				if err := os.Chmod(filepath.Join(path, d), 0); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "kept", "file"))
			if err := os.Mkdir(filepath.Join(dir, "in"), 0o755); err != nil {
				t.Fatal(err)
			}
			make(t, filepath.Join(dir, "in", "victim"))
			if err := RemoveAt(openDir(t, filepath.Join(dir, "in")), "victim"); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "in")); err != nil || len(left) != 0 {
				t.Fatalf("left %v, %v", left, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "kept", "file")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A tree deeper than descriptors and path names allow.
func TestRemoveDeep(t *testing.T) {
	const depth = 3000
	top := openDir(t, t.TempDir())
	cur, err := unix.Dup(top)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(cur, "directory", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(cur, "directory", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(cur)
		cur = next
	}
	unix.Close(cur)
	if err := RemoveAt(top, "directory"); err != nil {
		t.Fatal(err)
	}
}
