package nar

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	gonar "github.com/nix-community/go-nix/pkg/nar"
)

// makeTree makes a tree with one of everything in a new folder.
func makeTree(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"", "empty", "a", "a/b", "a.b"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		contents string
		mode     fs.FileMode
	}{
		"a/file": {"contents", 0o644}, "a-file": {"x", 0o444}, "exe": {"#!/bin/sh\n", 0o755}, "owner-exe": {"1234567", 0o700},
		"group-exe": {"no", 0o611}, "empty-file": {"", 0o644}, "a/b/big": {strings.Repeat("0123456789", 20_000), 0o600},
		")": {"", 0o644}, "-rf": {"-rf", 0o644}, "ä": {"ä", 0o644}, "Z": {"Z", 0o644}, strings.Repeat("n", 255): {"n", 0o644},
	} {
		path := filepath.Join(root, name)
		if err := os.WriteFile(path, []byte(c.contents), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "a/file", "a/dangling": "/no/such", "long": strings.Repeat("t", 4095), "up": "../.."} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func dump(t *testing.T, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := DumpPath(&b, path); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDumpLikeNix(t *testing.T) {
	nixStore, err := exec.LookPath("nix-store")
	if err != nil {
		t.Skip("nix-store is not installed")
	}
	root := makeTree(t)
	for _, name := range []string{"", "exe", "link", "empty", "empty-file", "group-exe"} {
		path := filepath.Join(root, name)
		cmd := exec.Command(nixStore, "--dump", path)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "NIX_REMOTE=dummy://")
		want, err := cmd.Output()
		if err != nil {
			t.Skipf("nix-store --dump does not run here: %v", err)
		}
		if !bytes.Equal(dump(t, path), want) {
			t.Errorf("%q: not the bytes of nix-store --dump", name)
		}
	}
}

func TestDumpLikeGoNix(t *testing.T) {
	root := makeTree(t)
	// It takes the execute bit of anybody for the owner's, and cannot write ")".
	for _, name := range []string{"group-exe", ")"} {
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	var want bytes.Buffer
	if err := gonar.DumpPath(&want, root); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dump(t, root), want.Bytes()) {
		t.Error("not the bytes of go-nix")
	}
}

func TestRestore(t *testing.T) {
	data := dump(t, makeTree(t))
	for _, suffix := range []string{"", "/"} {
		path := filepath.Join(t.TempDir(), "out") + suffix
		if err := Restore(bytes.NewReader(data), path); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dump(t, path), data) {
			t.Errorf("%q: the restored tree is another", suffix)
		}
	}
	for name, node := range map[string][]byte{"file": file("x"), "link": link("/etc/passwd"), "folder": dir()} {
		path := filepath.Join(t.TempDir(), "out")
		if err := Restore(bytes.NewReader(archive(node)), path); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(dump(t, path), archive(node)) {
			t.Errorf("%s: the restored one is another", name)
		}
	}
}

func TestRestoreRemovesWhatItMade(t *testing.T) {
	parent := t.TempDir()
	data := archive(dir(entry("a", dir(entry("b", file("x")))), entry("a", file("x"))))
	if err := Restore(bytes.NewReader(data), filepath.Join(parent, "out")); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestRestoreKeepsWhatWasThere(t *testing.T) {
	outside := t.TempDir()
	for name, prepare := range map[string]func(string) error{
		"file":   func(p string) error { return os.WriteFile(p, []byte("old"), 0o644) },
		"folder": func(p string) error { return os.Mkdir(p, 0o755) },
		"link":   func(p string) error { return os.Symlink(outside, p) },
	} {
		for kind, node := range map[string][]byte{"file": file("new"), "folder": dir(entry("a", file("new"))), "link": link("new")} {
			path := filepath.Join(t.TempDir(), "out")
			if err := prepare(path); err != nil {
				t.Fatal(err)
			}
			if err := Restore(bytes.NewReader(archive(node)), path); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s onto a %s: %v", kind, name, err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("%s onto a %s: %v", kind, name, err)
			}
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}

// TestRestoreFollowsNoLink swaps a folder for a link while files go into it.
func TestRestoreFollowsNoLink(t *testing.T) {
	outside, path := t.TempDir(), filepath.Join(t.TempDir(), "out")
	swap := &swapper{data: bytes.NewReader(archive(dir(
		entry("a", dir(entry("x", file("1")), entry("y", dir(entry("z", file("2")))))),
		entry("b", dir(entry("x", file("3")))),
	))), swap: func() error {
		if err := os.Rename(filepath.Join(path, "a"), filepath.Join(path, "moved")); err != nil {
			return err
		}
		return os.Symlink(outside, filepath.Join(path, "a"))
	}, when: func() bool {
		_, err := os.Lstat(filepath.Join(path, "a", "x"))
		return err == nil
	}}
	err := Restore(swap, path)
	if !swap.done {
		t.Fatalf("the test did not swap: %v", err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}

// swapper gives a byte at a time and does something once it may.
type swapper struct {
	data *bytes.Reader
	when func() bool
	swap func() error
	done bool
}

func (s *swapper) Read(p []byte) (int, error) {
	if !s.done && s.when() {
		s.done = true
		if err := s.swap(); err != nil {
			return 0, err
		}
	}
	return s.data.Read(p[:1])
}

func TestDeepTrees(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	data := deep(MaxDepth)
	if err := Restore(bytes.NewReader(data), path); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dump(t, path), data) {
		t.Error("the restored tree is another")
	}
	// The test's own clean-up would have every folder open at once.
	if err := removeAll(path); err != nil {
		t.Fatal(err)
	}
	if err := Restore(bytes.NewReader(data[:len(data)-8]), path); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left over: %v", err)
	}
}

func TestDumpRefuses(t *testing.T) {
	root := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "file '" + filepath.Join(root, "fifo") + "' has an unsupported type"
	if err := DumpPath(&bytes.Buffer{}, root); err == nil || err.Error() != want {
		t.Errorf("fifo: %v", err)
	}
	if err := DumpPath(&bytes.Buffer{}, filepath.Join(root, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if err := DumpPath(&failAfter{10}, makeTree(t)); !errors.Is(err, errFull) {
		t.Errorf("full: %v", err)
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skipf("no /proc: %v", err)
		}
		return len(fds)
	}
	tree := makeTree(t)
	if err := syscall.Mkfifo(filepath.Join(tree, "a/b/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := count()
	for range 20 {
		_ = DumpPath(&bytes.Buffer{}, tree)
		_ = Restore(bytes.NewReader(archive(dir(entry("a", dir(entry("b", dir(entry("c", link(""))))))))), filepath.Join(t.TempDir(), "out"))
	}
	if after := count(); after > before+5 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
