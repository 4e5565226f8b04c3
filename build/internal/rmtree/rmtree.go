// Package rmtree removes file trees that a hostile program made: it follows no
// link, goes as deep as it takes with a constant number of descriptors, and
// never leaves the tree even when somebody moves folders while it works.
package rmtree

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	openFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	readSize  = 32 << 10
)

// RemoveAt removes name from the folder that dirfd is, whatever it is. It is
// no error when there is no such name.
func RemoveAt(dirfd int, name string) error {
	if err := remove(dirfd, name); err != nil {
		return fmt.Errorf("remove '%s': %w", name, err)
	}
	return nil
}

func remove(dirfd int, name string) error {
	if ok, err := unlink(dirfd, name); ok || err != nil {
		return err
	}
	if err := rmdir(dirfd, name); !notEmpty(err) {
		return err
	}
	fd, err := open(dirfd, name)
	if err != nil {
		return err
	}
	if err := empty(fd, nil); err != nil {
		return err
	}
	return rmdir(dirfd, name)
}

// Empty removes everything in the folder that dirfd is, except the entries for
// which keep says so; nil keeps none.
func Empty(dirfd int, keep func(name string) bool) error {
	fd, err := unix.Openat(dirfd, ".", openFlags, 0)
	if err == nil {
		err = empty(fd, keep)
	}
	if err != nil {
		return fmt.Errorf("empty folder: %w", err)
	}
	return nil
}

// empty empties a folder and closes it.
func empty(fd int, keep func(string) bool) error {
	w := walker{cur: fd, keep: keep, buf: make([]byte, readSize)}
	defer w.close()
	return w.empty()
}

// unlink removes anything but a folder, and reports whether nothing is left.
func unlink(dirfd int, name string) (bool, error) {
	err := unix.Unlinkat(dirfd, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return true, nil
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EPERM):
		return false, nil // EPERM is what POSIX says of folders
	}
	return false, err
}

func rmdir(dirfd int, name string) error {
	err := unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// notEmpty reports whether a folder could not be removed because of what is in it.
func notEmpty(err error) bool {
	return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EACCES)
}

// open opens a folder, which it makes readable if it has to.
func open(dirfd int, name string) (int, error) {
	fd, err := unix.Openat(dirfd, name, openFlags, 0)
	if !errors.Is(err, unix.EACCES) {
		return fd, err
	}
	path, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(path)
	// fchmod(2) refuses such descriptors, and chmod by name might follow a link.
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(path), 0o700); err != nil {
		return -1, err
	}
	return unix.Openat(dirfd, name, openFlags, 0)
}

// maxOpen is how many folders on the way down stay open. Deeper down, the way
// back is "..", which must be the folder that we came from.
const maxOpen = 32

// level is a folder on the way down, and which of its entries we went into.
type level struct {
	fd       int // -1 when it was closed
	dev, ino uint64
	child    string
}

// walker empties a tree depth first.
type walker struct {
	cur   int
	stack []level
	keep  func(name string) bool // asked of what lies in the first folder
	buf   []byte
}

func (w *walker) close() {
	unix.Close(w.cur)
	for _, l := range w.stack {
		if l.fd >= 0 {
			unix.Close(l.fd)
		}
	}
}

// empty removes everything below the folder that cur is at the beginning.
func (w *walker) empty() error {
	for {
		sub, err := w.sweep()
		switch {
		case err != nil:
			return err
		case sub != "":
			err = w.down(sub)
		case len(w.stack) == 0:
			return nil
		default:
			err = w.up()
		}
		if err != nil {
			return err
		}
	}
}

// sweep removes the entries of the current folder until it meets a folder that
// is not empty, whose name it returns. It goes on where it was the last time,
// and is done when a pass from the beginning removes nothing.
func (w *walker) sweep() (sub string, err error) {
	for removed := false; ; {
		n, err := unix.ReadDirent(w.cur, w.buf)
		if err != nil {
			return "", err
		}
		if n == 0 {
			if !removed {
				return "", nil
			}
			if _, err := unix.Seek(w.cur, 0, unix.SEEK_SET); err != nil {
				return "", err
			}
			removed = false
		}
		_, _, names := unix.ParseDirent(w.buf[:n], -1, nil)
		for _, name := range names {
			if w.keep != nil && len(w.stack) == 0 && w.keep(name) {
				continue
			}
			ok, err := unlink(w.cur, name)
			if err != nil {
				return "", err
			}
			if !ok {
				err := rmdir(w.cur, name)
				if notEmpty(err) {
					return name, w.again()
				}
				if err != nil {
					return "", err
				}
			}
			removed = true
		}
	}
}

// again makes the next sweep see the current folder from its beginning: what
// else the last read had returned is forgotten when sweep returns a name.
func (w *walker) again() error {
	_, err := unix.Seek(w.cur, 0, unix.SEEK_SET)
	return err
}

func (w *walker) down(name string) error {
	fd, err := open(w.cur, name)
	if err != nil {
		return err
	}
	l := level{fd: w.cur, child: name}
	if len(w.stack) >= maxOpen {
		var st unix.Stat_t
		if err := unix.Fstat(w.cur, &st); err != nil {
			unix.Close(fd)
			return err
		}
		l.dev, l.ino = uint64(st.Dev), st.Ino
		unix.Close(w.cur)
		l.fd = -1
	}
	w.stack = append(w.stack, l)
	w.cur = fd
	return nil
}

var errMoved = errors.New("a folder was moved while it was removed")

func (w *walker) up() error {
	l := w.stack[len(w.stack)-1]
	if l.fd < 0 {
		fd, err := unix.Openat(w.cur, "..", openFlags, 0)
		if err != nil {
			return err
		}
		l.fd = fd
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || uint64(st.Dev) != l.dev || st.Ino != l.ino {
			unix.Close(fd)
			return errors.Join(errMoved, err)
		}
	}
	w.stack = w.stack[:len(w.stack)-1]
	unix.Close(w.cur)
	w.cur = l.fd
	return rmdir(w.cur, l.child)
}
