package nar

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Restore unpacks an archive to path, which must not exist yet while its
// parent folder must. Files get the modes 0666 or 0777 less the umask. Nothing
// outside of path is ever touched, also when somebody else changes the tree
// meanwhile. On an error what was unpacked is removed. Nothing is synced to disk.
//
// When r is a *bufio.Reader, it is read to the last byte of the archive and no further.
func Restore(r io.Reader, path string) error {
	path = filepath.Clean(path)
	dirs, err := newDescent(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	defer dirs.close()
	u := unpacker{r: NewReader(r), dirs: dirs, rootName: filepath.Base(path)}
	if err := u.run(); err != nil {
		if u.started {
			err = errors.Join(err, removeAll(path))
		}
		return fmt.Errorf("restore %s: %w", path, err)
	}
	return nil
}

type unpacker struct {
	r        *Reader
	dirs     *descent
	rootName string
	started  bool // the root was made by us
}

func (u *unpacker) run() error {
	for {
		h, err := u.r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Kind == EndDirectory {
			err = u.dirs.leave()
		} else {
			err = u.create(h)
		}
		if err != nil {
			return fmt.Errorf("NAR: %s: %w", u.r.Path(), err)
		}
	}
}

func (u *unpacker) create(h Header) error {
	name := h.Name
	if h.Depth == 0 {
		name = u.rootName
	}
	switch h.Kind {
	case Regular:
		return u.file(h, name)
	case Directory:
		if err := unix.Mkdirat(u.dirs.fd(), name, 0o777); err != nil {
			return fmt.Errorf("create folder: %w", err)
		}
		u.started = true
		return u.dirs.enter(name)
	}
	if err := unix.Symlinkat(h.Target, u.dirs.fd(), name); err != nil {
		return fmt.Errorf("create link: %w", err)
	}
	u.started = true
	return nil
}

func (u *unpacker) file(h Header, name string) error {
	mode := uint32(0o666)
	if h.Executable {
		mode = 0o777
	}
	fd, err := openAt(u.dirs.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return err
	}
	u.started = true
	f := asFile(fd, name)
	_, err = u.r.WriteTo(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
