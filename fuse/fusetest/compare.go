package fusetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Compare checks that a mounted tree shows what is in a tree on a disk: names,
// kinds, contents, sizes, executable bits and symlink targets, and for the rest
// what everything in a store has. It returns all differences.
func Compare(shown, disk string) error {
	var have, want syscall.Stat_t
	if err := syscall.Lstat(disk, &want); err != nil {
		return &os.PathError{Op: "lstat", Path: disk, Err: err}
	}
	if err := syscall.Lstat(shown, &have); err != nil {
		return &os.PathError{Op: "lstat", Path: shown, Err: err}
	}
	c := comparison{shown: shown}
	c.attributes(&have, &want)
	if have.Mode&syscall.S_IFMT != want.Mode&syscall.S_IFMT {
		return errors.Join(c.errs...)
	}
	switch want.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		c.target(disk)
	case syscall.S_IFREG:
		c.contents(disk)
	case syscall.S_IFDIR:
		c.entries(disk)
	}
	return errors.Join(c.errs...)
}

type comparison struct {
	shown string
	errs  []error
}

func (c *comparison) differ(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: "+format, append([]any{c.shown}, args...)...))
}

func (c *comparison) attributes(have, want *syscall.Stat_t) {
	mode := want.Mode & syscall.S_IFMT
	switch {
	case mode == syscall.S_IFLNK:
		mode |= 0o777
	case mode == syscall.S_IFDIR || want.Mode&0o100 != 0:
		mode |= 0o555
	default:
		mode |= 0o444
	}
	if have.Mode != mode {
		c.differ("mode %o, want %o", have.Mode, mode)
	}
	if mode&syscall.S_IFMT != syscall.S_IFDIR && have.Size != want.Size {
		c.differ("size %d, want %d", have.Size, want.Size)
	}
	if mode&syscall.S_IFMT == syscall.S_IFREG && have.Blocks != (want.Size+4095)/4096*8 {
		c.differ("%d blocks for %d bytes", have.Blocks, want.Size)
	}
	if have.Uid != 0 || have.Gid != 0 || have.Nlink != 1 || have.Mtim != (syscall.Timespec{Sec: 1}) {
		c.differ("owner %d:%d, %d links, time %v", have.Uid, have.Gid, have.Nlink, have.Mtim)
	}
}

func (c *comparison) target(disk string) {
	want, err := os.Readlink(disk)
	have, haveErr := os.Readlink(c.shown)
	if err := errors.Join(err, haveErr); err != nil {
		c.errs = append(c.errs, err)
	} else if have != want {
		c.differ("target %q, want %q", have, want)
	}
}

func (c *comparison) contents(disk string) {
	have, err := os.Open(c.shown)
	if err != nil {
		c.errs = append(c.errs, err)
		return
	}
	defer func() { _ = have.Close() }()
	want, err := os.Open(disk)
	if err != nil {
		c.errs = append(c.errs, err)
		return
	}
	defer func() { _ = want.Close() }()
	if err := sameBytes(have, want); err != nil {
		c.differ("%w", err)
	}
}

func sameBytes(have, want io.Reader) error {
	const piece = 256 << 10
	a, b := make([]byte, piece), make([]byte, piece)
	for at := 0; ; {
		n, err := io.ReadFull(have, a)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		m, wantErr := io.ReadFull(want, b)
		if wantErr != nil && wantErr != io.EOF && wantErr != io.ErrUnexpectedEOF {
			return wantErr
		}
		if !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("contents differ after byte %d", at)
		}
		if n < piece {
			return nil
		}
		at += n
	}
}

func (c *comparison) entries(disk string) {
	want, err := os.ReadDir(disk)
	have, haveErr := os.ReadDir(c.shown)
	if err := errors.Join(err, haveErr); err != nil {
		c.errs = append(c.errs, err)
		return
	}
	if !slices.EqualFunc(have, want, func(a, b os.DirEntry) bool {
		return a.Name() == b.Name() && a.Type() == b.Type()
	}) {
		c.differ("entries %v, want %v", have, want)
		return
	}
	for _, e := range want {
		if err := Compare(filepath.Join(c.shown, e.Name()), filepath.Join(disk, e.Name())); err != nil {
			c.errs = append(c.errs, err)
		}
	}
}
