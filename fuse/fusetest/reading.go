package fusetest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
)

func (m mounted) rootStat() {
	st := m.lstat()
	if st.Mode != syscall.S_IFDIR|0o555 || st.Ino != 1 || st.Uid != 0 || st.Gid != 0 {
		m.Errorf("root: mode %o, inode %d, owner %d:%d", st.Mode, st.Ino, st.Uid, st.Gid)
	}
}

func (m mounted) rootListing() {
	f, err := os.Open(m.Dir)
	if err != nil {
		m.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	if !m.ListRoot {
		m.wantErr("list root", err, syscall.EPERM)
		return
	}
	if err != nil {
		m.Fatal(err)
	}
	for _, want := range []string{fileName, linkName, keepName, wideName, noBlobName} {
		if !slices.Contains(names, want) {
			m.Errorf("listing of the root lacks %s: %q", want, names)
		}
	}
}

func (m mounted) fileAtRoot() {
	if st := m.lstat(fileName); st.Mode != syscall.S_IFREG|0o444 || st.Size != int64(len(fileContents)) {
		m.Errorf("mode %o, size %d", st.Mode, st.Size)
	}
	if got := m.read(fileName); got != fileContents {
		m.Errorf("contents %q", got)
	}
}

func (m mounted) largeFile() {
	if st := m.lstat(largeName); st.Size != largeSize || st.Blocks < largeSize/512 {
		m.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
	if !bytes.Equal([]byte(m.read(largeName)), largeContents()) {
		m.Error("contents differ")
	}
}

func (m mounted) largeFileAtRandom() {
	f, err := os.Open(m.path(largeName))
	if err != nil {
		m.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	want := largeContents()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off := random.IntN(largeSize)
		buf := make([]byte, 1+random.IntN(300<<10))
		n, err := f.ReadAt(buf, int64(off))
		if err != nil && err != io.EOF {
			m.Fatal(err)
		}
		if n != min(len(buf), largeSize-off) || !bytes.Equal(buf[:n], want[off:off+n]) {
			m.Fatalf("%d bytes at %d differ (%d read)", len(buf), off, n)
		}
	}
}

// directRead goes past the page cache.
func (m mounted) directRead() {
	f, err := os.OpenFile(m.path(largeName), os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		m.Skip("cannot open past the page cache: ", err)
	}
	defer func() { _ = f.Close() }()
	want := largeContents()
	buf := make([]byte, 3<<20)
	for _, off := range []int{0, 1 << 20, largeSize - 100, largeSize} {
		n, err := f.ReadAt(buf, int64(off))
		if err != nil && err != io.EOF {
			m.Fatal(err)
		}
		if !bytes.Equal(buf[:n], want[off:min(off+len(buf), largeSize)]) {
			m.Fatalf("contents at %d differ (%d read)", off, n)
		}
	}
}

func (m mounted) symlink() {
	st := m.lstat(linkName)
	if st.Mode&syscall.S_IFMT != syscall.S_IFLNK || st.Size != int64(len(fileName)) {
		m.Errorf("mode %o, size %d", st.Mode, st.Size)
	}
	for range 2 { // the second answer is the kernel's
		if target, err := os.Readlink(m.path(linkName)); err != nil || target != fileName {
			m.Errorf("target %q, error %v", target, err)
		}
	}
	target, err := os.Readlink(m.path(oddName, "long-target"))
	if err != nil || target != strings.Repeat("t", 4095) {
		m.Errorf("long target: %d bytes, error %v", len(target), err)
	}
	_, err = os.Readlink(m.path(fileName))
	m.wantErr("readlink of a file", err, syscall.EINVAL)
}

func (m mounted) danglingSymlink() {
	for _, name := range []string{m.path(link2Name), m.path(complicatedName, "aa")} {
		if target, err := os.Readlink(name); err != nil || target != keepTarget {
			m.Errorf("target %q, error %v", target, err)
		}
		if _, err := os.Lstat(keepTarget); err == nil {
			m.Skipf("%s exists on this machine", keepTarget)
		}
		_, err := os.Stat(name)
		m.wantErr("stat through "+name, err, syscall.ENOENT)
		_, err = os.ReadFile(name)
		m.wantErr("read through "+name, err, syscall.ENOENT)
	}
}

func (m mounted) throughSymlink() {
	direct, err := os.Stat(m.path(fileName))
	if err != nil {
		m.Fatal(err)
	}
	through, err := os.Stat(m.path(linkName))
	if err != nil {
		m.Fatal(err)
	}
	if !os.SameFile(direct, through) || through.Size() != direct.Size() {
		m.Errorf("stat through the symlink: %v, want %v", through, direct)
	}
	if got := m.read(linkName); got != fileContents {
		m.Errorf("contents through the symlink %q", got)
	}
}

func (m mounted) directoryStat() {
	if st := m.lstat(keepName); st.Mode != syscall.S_IFDIR|0o555 || st.Size != 1 {
		m.Errorf("mode %o, size %d, want a directory of 1 entry", st.Mode, st.Size)
	}
	if st := m.lstat(complicatedName); st.Size != 4 {
		m.Errorf("size %d, want 4 entries in all", st.Size)
	}
}

func (m mounted) nestedRead() {
	if got := m.read(complicatedName, "keep", ".keep"); got != "" {
		m.Errorf("contents %q, want none", got)
	}
	if st := m.lstat(complicatedName, "keep", ".keep"); st.Size != 0 || st.Blocks != 0 {
		m.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
}

func (m mounted) deepLookup() {
	file := append([]string{deepName}, deepPath...)
	if got := m.read(file...); got != "at the bottom\n" {
		m.Errorf("contents %q", got)
	}
	up := append(file[:len(file)-1:len(file)-1], "..", "..", "..")
	if got, want := m.lstat(up...).Ino, m.lstat(deepName, "a").Ino; got != want {
		m.Errorf("three up from the bottom is inode %d, want %d", got, want)
	}
}

func (m mounted) listing() {
	if got := m.names(complicatedName); !slices.Equal(got, []string{".keep", "aa", "keep"}) {
		m.Errorf("entries %q", got)
	}
	entries, err := os.ReadDir(m.path(complicatedName))
	if err != nil {
		m.Fatal(err)
	}
	if !entries[0].Type().IsRegular() || entries[1].Type() != os.ModeSymlink || !entries[2].IsDir() {
		m.Errorf("types of %v", entries)
	}
}

func (m mounted) nestedListing() {
	if got := m.names(equalName, "2"); !slices.Equal(got, []string{".keep"}) {
		m.Errorf("entries %q", got)
	}
}

func (m mounted) wideListing() {
	for range 2 { // the second answer is the kernel's
		got := m.names(wideName)
		if len(got) != wideEntries || !sort.StringsAreSorted(got) || got[0] != wideEntry(0) || got[wideEntries-1] != wideEntry(wideEntries-1) {
			m.Fatalf("%d entries, want %d, in order", len(got), wideEntries)
		}
	}
	for i := 0; i < wideEntries; i += 97 {
		if got := m.read(wideName, wideEntry(i)); got != fmt.Sprint(i) {
			m.Errorf("%s holds %q", wideEntry(i), got)
		}
	}
}

// wideSeek reads a listing in small pieces, each from a place that it was told.
func (m mounted) wideSeek() {
	fd, err := syscall.Open(m.path(wideName), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		m.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	places := []int64{0}
	var pieces [][]string
	buf := make([]byte, 2000)
	for {
		n, err := syscall.Getdents(fd, buf)
		if err != nil {
			m.Fatal(err)
		}
		if n == 0 {
			break
		}
		_, _, names := syscall.ParseDirent(buf[:n], -1, nil)
		pieces = append(pieces, names)
		at, err := syscall.Seek(fd, 0, 1)
		if err != nil {
			m.Fatal(err)
		}
		places = append(places, at)
	}
	if total := len(slices.Concat(pieces...)); total != wideEntries {
		m.Fatalf("%d entries in pieces, want %d", total, wideEntries)
	}
	for _, i := range rand.New(rand.NewPCG(3, 4)).Perm(len(pieces))[:min(40, len(pieces))] {
		if _, err := syscall.Seek(fd, places[i], 0); err != nil {
			m.Fatal(err)
		}
		n, err := syscall.Getdents(fd, buf)
		if err != nil {
			m.Fatal(err)
		}
		_, _, names := syscall.ParseDirent(buf[:n], -1, nil)
		if !slices.Equal(names, pieces[i]) {
			m.Fatalf("piece %d read again: %q, want %q", i, names, pieces[i])
		}
	}
}

func (m mounted) oddNames() {
	got := m.names(oddName)
	for _, name := range oddNames {
		if !slices.Contains(got, name) {
			m.Errorf("listing lacks %q", name)
		}
		// Not path: it would clean names such as "...".
		b, err := os.ReadFile(filepath.Join(m.Dir, oddName) + "/" + name)
		if err != nil || string(b) != "named "+name {
			m.Errorf("%q holds %q, error %v", name, b, err)
		}
	}
}
