package gc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/storepath"
)

// Censored stands in place of a root's link when it says something about other
// users' processes.
const Censored = "{censored}"

// Root says that something outside of the store needs a path.
type Root struct {
	// Link is the symlink or the file below /proc that leads to the path, or
	// a word in braces.
	Link string

	// Path is valid.
	Path storepath.Path
}

// FindRoots returns the roots, sorted by path and link. With censor, roots
// that are processes and leases do not say whose.
func (c *Collector) FindRoots(ctx context.Context, censor bool, log func(level int, text string)) ([]Root, error) {
	if log == nil {
		log = func(int, string) {}
	}
	// Leases are read first: what a client holds now may be rooted and let go
	// while the links are read.
	leases := c.store.TempRoots()
	f, err := c.find(ctx, log)
	if err != nil {
		return nil, fmt.Errorf("find the roots: %w", err)
	}
	for _, p := range leases {
		f.roots = append(f.roots, foundRoot{Root: Root{fmt.Sprintf("{temp:%d}", os.Getpid()), p}, private: true})
	}
	valid, err := c.valid(ctx, f.roots)
	if err != nil {
		return nil, fmt.Errorf("find the roots: %w", err)
	}
	roots := make([]Root, 0, len(f.roots))
	for _, r := range f.roots {
		if !valid[r.Path] {
			r.logInvalid(log)
			continue
		}
		if censor && r.private {
			r.Link = Censored
		}
		roots = append(roots, r.Root)
	}
	slices.SortFunc(roots, func(a, b Root) int {
		if c := a.Path.Compare(b.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Link, b.Link)
	})
	return slices.Compact(roots), nil
}

// liveRoots returns the paths that roots and leases lead to, valid or not.
func (c *Collector) liveRoots(ctx context.Context, log func(int, string)) ([]storepath.Path, error) {
	leases := c.store.TempRoots()
	f, err := c.find(ctx, log)
	if err != nil {
		return nil, err
	}
	valid, err := c.valid(ctx, f.roots)
	if err != nil {
		return nil, err
	}
	paths := leases
	for _, r := range f.roots {
		if valid[r.Path] {
			paths = append(paths, r.Path)
		} else {
			r.logInvalid(log)
		}
	}
	return paths, nil
}

func (c *Collector) valid(ctx context.Context, roots []foundRoot) (map[storepath.Path]bool, error) {
	paths := make([]storepath.Path, len(roots))
	for i, r := range roots {
		paths[i] = r.Path
	}
	paths, err := c.store.PathInfo().Valid(ctx, storepath.SortUnique(paths))
	if err != nil {
		return nil, err
	}
	valid := make(map[storepath.Path]bool, len(paths))
	for _, p := range paths {
		valid[p] = true
	}
	return valid, nil
}

// foundRoot is a root whose path may not be valid.
type foundRoot struct {
	Root
	target  string // what a symlink outside of /proc contains, for the message
	private bool   // found in a process or a lease
}

func (r *foundRoot) logInvalid(log func(int, string)) {
	if r.target != "" {
		log(levelInfo, fmt.Sprintf("skipping invalid root from '%s' to '%s'", r.Link, r.target))
	}
}

// finder collects roots.
type finder struct {
	ctx   context.Context
	dir   storepath.Dir
	auto  string // the folder of indirect roots, where stale links are removed
	log   func(level int, text string)
	roots []foundRoot
}

// find reads all roots but the leases.
func (c *Collector) find(ctx context.Context, log func(int, string)) (*finder, error) {
	f := &finder{ctx: ctx, dir: c.dir, auto: c.autoDir(), log: log}
	for _, top := range []string{"gcroots", "profiles"} {
		// The top itself may be a symlink to where an administrator keeps it.
		top = filepath.Join(c.stateDir, top)
		if err := f.ignore(top, f.folder(top, 0)); err != nil {
			return nil, err
		}
	}
	if err := f.processes(c.procDir); err != nil {
		return nil, err
	}
	return f, nil
}

// entry adds the roots at path, which is below gcroots or profiles.
func (f *finder) entry(path string, typ fs.FileMode) error {
	switch typ.Type() {
	case fs.ModeDir:
		return f.ignore(path, f.folder(path, unix.O_NOFOLLOW))
	case fs.ModeSymlink:
		return f.ignore(path, f.link(path))
	case 0:
		// A plain file roots the path that it is named after.
		if p, err := storepath.ParseBase(filepath.Base(path)); err == nil {
			f.roots = append(f.roots, foundRoot{Root: Root{path, p}})
		}
	}
	return nil
}

// ignore passes over errors that would be the same at every collection, or that
// come from entries that vanish: one user's strange links must not keep all
// others from collecting.
func (f *finder) ignore(path string, err error) error {
	if err == nil || !lasting(err) {
		return err
	}
	f.log(levelInfo, fmt.Sprintf("cannot read potential root '%s'", path))
	return nil
}

func lasting(err error) bool {
	for _, no := range []unix.Errno{unix.EACCES, unix.EPERM, unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.ESRCH} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func (f *finder) folder(path string, flags int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	for {
		entries, err := d.ReadDir(512)
		for _, e := range entries {
			if err := f.entry(filepath.Join(path, e.Name()), e.Type()); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case f.ctx.Err() != nil:
			return context.Cause(f.ctx)
		}
	}
}

// link adds the root that a symlink is: directly, or by one more symlink
// outside of the store.
func (f *finder) link(path string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return err
	}
	if f.dir.Contains(target) {
		f.found(path, target)
		return nil
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	target = filepath.Clean(target)
	st, err := os.Lstat(target)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		if filepath.Dir(path) != f.auto {
			return nil
		}
		f.log(levelInfo, fmt.Sprintf("removing stale link from '%s' to '%s'", path, target))
		return removeStale(path, target)
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSymlink:
		return nil
	}
	further, err := os.Readlink(target)
	if err == nil && f.dir.Contains(further) {
		f.found(target, further)
	}
	return err
}

func (f *finder) found(link, target string) {
	if p, _, err := f.dir.ParseInside(target); err == nil {
		f.roots = append(f.roots, foundRoot{Root: Root{link, p}, target: target})
	}
}
