package gc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/storepath"
)

// maxBase is the longest name of a store object with its hash.
const maxBase = storepath.HashLen + 1 + storepath.MaxNameLen

// kernelFiles hold the paths of programs that the kernel runs by itself.
var kernelFiles = []string{"sys/kernel/modprobe", "sys/kernel/fbsplash", "sys/kernel/poweroff_cmd"}

// processes adds the paths that running processes use: their programs, working
// folders, open and mapped files and environments; and those that the kernel
// may run.
func (f *finder) processes(proc string) error {
	entries, err := os.ReadDir(proc)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		if strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		if err := f.ctx.Err(); err != nil {
			return context.Cause(f.ctx)
		}
		// A process that ends meanwhile, or that is not to be looked at, has
		// no roots (any more).
		if err := f.process(filepath.Join(proc, e.Name())); err != nil && !lasting(err) {
			return err
		}
	}
	for _, name := range kernelFiles {
		if err := f.kernelFile(filepath.Join(proc, name)); err != nil && !lasting(err) {
			return err
		}
	}
	return nil
}

func (f *finder) process(dir string) error {
	for _, name := range []string{"exe", "cwd"} {
		if err := f.procLink(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if err := f.procLink(filepath.Join(dir, "fd", fd.Name())); err != nil {
			return err
		}
	}
	// A mapped file's path is the last field of its line, after a space.
	if err := f.scanFile(filepath.Join(dir, "maps"), ' '); err != nil {
		return err
	}
	return f.scanFile(filepath.Join(dir, "environ"), anywhere)
}

// procLink adds the path that a link of a process leads to. A link that cannot
// be read is passed over.
func (f *finder) procLink(link string) error {
	target, err := os.Readlink(link)
	if err != nil {
		if lasting(err) {
			return nil
		}
		return err
	}
	f.private(link, target)
	return nil
}

func (f *finder) private(link, target string) {
	if p, _, err := f.dir.ParseInside(target); err == nil {
		f.roots = append(f.roots, foundRoot{Root: Root{link, p}, private: true})
	}
}

func (f *finder) kernelFile(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	contents, err := io.ReadAll(io.LimitReader(file, unix.PathMax))
	f.private(name, string(bytes.TrimSpace(contents)))
	return err
}

func (f *finder) scanFile(name string, before int) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	seen := make(map[storepath.Path]bool)
	return scanPaths(file, string(f.dir)+"/", before, func(base string) {
		if p, err := storepath.ParseBase(base); err == nil && !seen[p] {
			seen[p] = true
			f.roots = append(f.roots, foundRoot{Root: Root{name, p}, private: true})
		}
	})
}

// anywhere lets scanPaths take a path whatever byte stands before it.
const anywhere = -1

// scanPaths calls found with what follows each occurrence of prefix in r, as
// far as it could be the name of a store object. If before is not anywhere,
// that byte must stand before prefix. Memory is constant.
func scanPaths(r io.Reader, prefix string, before int, found func(base string)) error {
	buf := make([]byte, 0, 64<<10)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		end := err != nil
		used := scanBuffer(buf, prefix, before, end, found)
		buf = append(buf[:0], buf[used:]...)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// scanBuffer scans what can be decided and returns how much of buf need not be
// seen again; unless end, that leaves room in buf.
func scanBuffer(buf []byte, prefix string, before int, end bool, found func(base string)) int {
	at := 0
	for {
		i := bytes.Index(buf[at:], []byte(prefix))
		if i < 0 {
			// The prefix may be cut at the end, and the byte before it counts.
			return max(at, len(buf)-len(prefix))
		}
		i += at
		base := buf[i+len(prefix):]
		if len(base) <= maxBase && !end {
			return max(i-1, 0)
		}
		if before == anywhere || i > 0 && int(buf[i-1]) == before {
			found(string(base[:nameLen(base)]))
		}
		at = i + len(prefix)
	}
}

// nameLen is the number of bytes at the start of b, at most one more than a
// name may have, that the name of a store object could consist of.
func nameLen(b []byte) int {
	for i, c := range b {
		switch {
		case i > maxBase:
			return i
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', strings.IndexByte("+-._?=", c) >= 0:
		default:
			return i
		}
	}
	return len(b)
}
