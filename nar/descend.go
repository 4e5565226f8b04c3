package nar

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openDirs is how many folders of a path a descent keeps open. Deeper trees
// work all the same: folders further up are opened again on the way back.
const openDirs = 32

// descent walks a tree by descriptors. No step follows a link or leaves the
// tree, whatever others do to it in the meantime.
type descent struct {
	levels []level
}

type level struct {
	fd   int // -1 while closed
	name string
}

// newDescent begins in the folder at path, to which links may lead.
func newDescent(path string) (*descent, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &descent{levels: []level{{fd, path}}}, nil
}

// path is where name in the innermost folder lies, for messages.
func (d *descent) path(name string) string {
	var parts []string
	for _, l := range d.levels {
		parts = append(parts, l.name)
	}
	return filepath.Join(append(parts, name)...)
}

// fd is the innermost folder, open.
func (d *descent) fd() int { return d.levels[len(d.levels)-1].fd }

// enter opens a folder in the innermost one and makes it the innermost.
func (d *descent) enter(name string) error {
	fd, err := openDirAt(d.fd(), name)
	if err != nil {
		return err
	}
	d.levels = append(d.levels, level{fd, name})
	// The root stays open: what was closed is found again from there.
	if i := len(d.levels) - openDirs; i > 0 {
		unix.Close(d.levels[i].fd)
		d.levels[i].fd = -1
	}
	return nil
}

// leave goes back to the folder around the innermost one.
func (d *descent) leave() error {
	top := len(d.levels) - 1
	unix.Close(d.levels[top].fd)
	d.levels = d.levels[:top]
	if top == 0 || d.levels[top-1].fd >= 0 {
		return nil
	}
	return d.reopen()
}

// reopen walks from the root to the innermost folder. It leaves as many
// folders open as the way back may need soon, so that a deep tree is not
// walked once for every folder.
func (d *descent) reopen() error {
	at := d.levels[0].fd
	for i := 1; i < len(d.levels); i++ {
		fd, err := openDirAt(at, d.levels[i].name)
		if before := i - 1; before > 0 && before <= len(d.levels)-openDirs {
			unix.Close(at)
			d.levels[before].fd = -1
		}
		if err != nil {
			return err
		}
		at, d.levels[i].fd = fd, fd
	}
	return nil
}

// close closes all folders, the root too.
func (d *descent) close() {
	for _, l := range d.levels {
		if l.fd >= 0 {
			unix.Close(l.fd)
		}
	}
	d.levels = nil
}

// remove deletes name in the innermost folder with all that is below it. It is
// os.RemoveAll for trees deeper than descriptors may be open.
func (d *descent) remove(name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR {
		return fmt.Errorf("remove %s: %w", d.path(name), err)
	}
	if err := d.enter(name); err != nil {
		return err
	}
	names, err := listDir(d.fd())
	if err != nil {
		return err
	}
	for _, below := range names {
		if err := d.remove(below); err != nil {
			return err
		}
	}
	if err := d.leave(); err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove %s: %w", d.path(name), err)
	}
	return nil
}

// removeAll deletes the tree at path.
func removeAll(path string) error {
	d, err := newDescent(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.close()
	return d.remove(filepath.Base(path))
}

func openDirAt(at int, name string) (int, error) {
	return openAt(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// openAt opens name, a single component, without following a link.
func openAt(at int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
			continue
		}
		return -1, fmt.Errorf("open %s: %w", printable(name), err)
	}
}

// asFile makes a descriptor a file, for its Read and Write.
func asFile(fd int, name string) *os.File { return os.NewFile(uintptr(fd), name) }
