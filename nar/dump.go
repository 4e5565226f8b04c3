package nar

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// DumpPath writes the archive of the file, folder or link at path to w. The
// bytes are those of "nix-store --dump": a file is executable when its owner
// may execute it, and other metadata does not count. A tree that changes
// meanwhile results in an error or in an archive of some state between, never
// in a broken archive without an error.
func DumpPath(w io.Writer, path string) error {
	path = filepath.Clean(path)
	dirs, err := newDescent(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("dump %s: %w", path, err)
	}
	defer dirs.close()
	buffered := bufio.NewWriterSize(w, readBuffer)
	d := dumper{w: NewWriter(buffered), dirs: dirs}
	if err := d.object(filepath.Base(path), ""); err != nil {
		return err
	}
	if err := d.w.Close(); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("dump %s: write: %w", path, err)
	}
	return nil
}

type dumper struct {
	w    *Writer
	dirs *descent
	buf  []byte // for contents, made with the first file
}

// object writes what has the name fsName in the innermost folder.
func (d *dumper) object(fsName, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.dirs.fd(), fsName, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d.failed(fsName, fmt.Errorf("stat: %w", err))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return d.file(fsName, name)
	case unix.S_IFDIR:
		return d.folder(fsName, name)
	case unix.S_IFLNK:
		target, err := readlinkAt(d.dirs.fd(), fsName)
		if err != nil {
			return d.failed(fsName, err)
		}
		return d.w.Header(Header{Kind: Symlink, Name: name, Target: target})
	}
	return fmt.Errorf("file '%s' has an unsupported type", printable(d.dirs.path(fsName)))
}

func (d *dumper) file(fsName, name string) error {
	// Not blocking: the name may stand for a fifo by now.
	fd, err := openAt(d.dirs.fd(), fsName, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return d.failed(fsName, err)
	}
	f := asFile(fd, fsName)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return d.failed(fsName, fmt.Errorf("stat: %w", err))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return d.failed(fsName, fmt.Errorf("file changed its type"))
	}
	h := Header{Kind: Regular, Name: name, Executable: st.Mode&unix.S_IXUSR != 0, Size: uint64(st.Size)}
	if err := d.w.Header(h); err != nil {
		return err
	}
	return d.contents(f, h.Size)
}

func (d *dumper) contents(f *os.File, size uint64) error {
	if d.buf == nil {
		d.buf = make([]byte, readBuffer)
	}
	for size > 0 {
		n, err := f.Read(d.buf[:min(size, uint64(len(d.buf)))])
		if n > 0 {
			if _, err := d.w.Write(d.buf[:n]); err != nil {
				return err
			}
			size -= uint64(n)
		}
		if err == io.EOF {
			err = fmt.Errorf("file shrank while it was read: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return d.failed(f.Name(), err)
		}
	}
	return nil
}

func (d *dumper) folder(fsName, name string) error {
	if err := d.w.Header(Header{Kind: Directory, Name: name}); err != nil {
		return err
	}
	if err := d.dirs.enter(fsName); err != nil {
		return d.failed(fsName, err)
	}
	entries, err := listDir(d.dirs.fd())
	if err != nil {
		return d.failed(fsName, err)
	}
	for _, entry := range entries {
		if err := d.object(entry, entry); err != nil {
			return err
		}
	}
	if err := d.dirs.leave(); err != nil {
		return d.failed(fsName, err)
	}
	return d.w.Header(Header{Kind: EndDirectory})
}

func (d *dumper) failed(name string, err error) error {
	return fmt.Errorf("dump %s: %w", printable(d.dirs.path(name)), err)
}

// listDir is the sorted names in a folder.
func listDir(fd int) ([]string, error) {
	// A second descriptor, since closing the *os.File closes what it has.
	dup, err := openDirAt(fd, ".")
	if err != nil {
		return nil, err
	}
	f := asFile(dup, ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

func readlinkAt(at int, name string) (string, error) {
	buf := make([]byte, MaxTarget+1)
	n, err := unix.Readlinkat(at, name, buf)
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	return string(buf[:n]), nil
}
