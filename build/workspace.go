package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build/internal/rmtree"
	"github.com/tvixd/tvixd/build/sandbox"
	"github.com/tvixd/tvixd/storepath"
)

// workspace is the folders of one build.
//
// A folder that a builder owned or could write to is never used again: it may
// have got times, attributes, access lists or flags that a later build would
// notice. Where nothing that a builder held can have got out of its sandbox,
// what it could not touch stays for later builds: the folder around, and the
// names of store paths, on which the inputs are mounted. Making and removing
// them costs more than the rest of a small build.
type workspace struct {
	scratch *scratch
	name    string // in builds
	dir     string
	dirFD   int
	reused  bool // may be

	build string // the build folder, wherever it is
	outer string // what build lies in, or build itself, when it is elsewhere; or ""
	ownFD int    // the folder "store" of an isolated build, or an upper folder of its own; or -1

	// storeFD is where the outputs are: ownFD, or the shared upper folder.
	storeFD int
	world   *sandbox.World          // of a build that is not isolated
	outputs []string                // names that a build which is not isolated may make
	mounted map[string]sandbox.Kind // names for inputs, in "store" or, between builds, in "names"
}

// owner is who a folder belongs to.
type owner struct{ uid, gid int }

// workspaceOptions say what a build needs.
type workspaceOptions struct {
	isolated bool
	// reuse says that nothing of the builder can outlive it.
	reuse   bool
	builder owner
	// elsewhere is a folder in which to make the build folder, so that it may
	// be kept, or seen by others; or "".
	elsewhere string
	drvName   string // with ".drv"
	outputs   []storepath.Path
	hides     bool // some of them are valid
}

func (w *workspace) path(name string) string { return filepath.Join(w.dir, name) }

// acquire makes a workspace, or takes one that is free.
func (s *scratch) acquire(o workspaceOptions) (*workspace, error) {
	w, err := s.take(o)
	if err == nil {
		err = w.prepare(o)
	}
	if err != nil {
		if w != nil {
			err = errors.Join(err, w.destroy())
		}
		return nil, fmt.Errorf("create build folder: %w", err)
	}
	return w, nil
}

// take returns a free workspace or a new, empty one.
func (s *scratch) take(o workspaceOptions) (*workspace, error) {
	s.mu.Lock()
	if n := len(s.free); n > 0 && o.reuse {
		w := s.free[n-1]
		s.free = s.free[:n-1]
		s.mu.Unlock()
		return w, nil
	}
	s.next++
	name := strconv.FormatUint(s.next, 10)
	s.mu.Unlock()
	w := &workspace{
		scratch: s, name: name, dir: filepath.Join(s.path("builds"), name),
		dirFD: -1, ownFD: -1, storeFD: -1, mounted: make(map[string]sandbox.Kind),
	}
	err := os.Mkdir(w.dir, 0o700)
	if err == nil {
		w.dirFD, err = openDir(w.dir)
	}
	return w, err
}

// prepare makes the folders of a build and gives them to the builder.
func (w *workspace) prepare(o workspaceOptions) error {
	w.reused = o.reuse
	w.build, w.outer = w.path("build"), ""
	var err error
	if o.elsewhere == "" {
		err = w.folder("build", 0o700, o.builder)
	} else {
		err = w.createElsewhere(o)
	}
	switch {
	case err != nil:
		return err
	case !o.isolated:
		return w.share(o)
	}
	if err := w.folder("tmp", 0o777|unix.S_ISVTX, owner{0, 0}); err != nil {
		return err
	}
	if err := w.folder("store", 0o775|unix.S_ISVTX, owner{0, o.builder.gid}); err != nil {
		return err
	}
	w.ownFD, err = openDir(w.path("store"))
	w.storeFD = w.ownFD
	return err
}

// folder makes a folder of the workspace, where nobody else comes.
func (w *workspace) folder(name string, mode uint32, o owner) error {
	failed := func(op string, err error) error { return &os.PathError{Op: op, Path: w.path(name), Err: err} }
	if err := unix.Mkdirat(w.dirFD, name, 0o700); err != nil {
		return failed("mkdir", err)
	}
	if o != (owner{os.Geteuid(), os.Getegid()}) {
		if err := unix.Fchownat(w.dirFD, name, o.uid, o.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return failed("chown", err)
		}
	}
	if mode != 0o700 {
		if err := unix.Fchmodat(w.dirFD, name, mode, 0); err != nil {
			return failed("chmod", err)
		}
	}
	return nil
}

// createElsewhere makes the build folder under the name that Nix gives it. One
// that an isolated builder uses lies in another that is closed to everybody,
// so that nobody outside meets the builder's files while they change.
func (w *workspace) createElsewhere(o workspaceOptions) error {
	var dir string
	for i := 0; ; i++ {
		dir = filepath.Join(o.elsewhere, "nix-build-"+o.drvName+"-"+strconv.Itoa(i))
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	w.outer, w.build = dir, dir
	if err := os.Symlink(dir, w.path("elsewhere")); err != nil {
		return err
	}
	if o.isolated {
		w.build = filepath.Join(dir, "build")
		if err := os.Mkdir(w.build, 0o700); err != nil {
			return err
		}
	}
	return os.Lchown(w.build, o.builder.uid, o.builder.gid)
}

// share makes the workspace use the shared overlay, or one of its own if some
// outputs are valid and have to be hidden from the builder: others may need
// them meanwhile.
func (w *workspace) share(o workspaceOptions) (err error) {
	s := w.scratch
	if o.hides {
		w.reused = false
		w.world, w.ownFD, err = s.newWorld(w.dir)
		w.storeFD = w.ownFD
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.world == nil {
		if s.world, s.upper, err = s.newWorld(s.path("shared")); err != nil {
			return err
		}
	}
	for _, p := range o.outputs {
		w.outputs = append(w.outputs, p.Base())
		s.inUse[p.Base()]++
	}
	w.world, w.storeFD = s.world, s.upper
	return nil
}

// keep opens the build folder to others and leaves it behind. It returns where
// it is. Every process of the builder is gone by then.
func (w *workspace) keep() (string, error) {
	for _, dir := range []string{w.outer, w.build} {
		if dir == "" {
			continue
		}
		fd, err := openDir(dir)
		if err != nil {
			return "", err
		}
		err = unix.Fchmod(fd, 0o755)
		unix.Close(fd)
		if err != nil {
			return "", &os.PathError{Op: "chmod", Path: dir, Err: err}
		}
	}
	if w.outer == "" {
		w.reused = false
		return w.build, nil
	}
	w.outer = ""
	return w.build, os.Remove(w.path("elsewhere"))
}

// release removes what a build left, and keeps the workspace for another one
// if it may.
func (w *workspace) release(kept bool) error {
	s := w.scratch
	if err := w.purgeShared(); err != nil {
		return errors.Join(err, w.destroy())
	}
	if kept && w.build == w.path("build") {
		return w.close() // the next daemon removes it
	}
	if !w.reused {
		return w.destroy()
	}
	if err := w.empty(); err != nil {
		return errors.Join(err, w.destroy())
	}
	s.mu.Lock()
	full := len(s.free) >= maxFree
	if !full {
		s.free = append(s.free, w)
	}
	s.mu.Unlock()
	if full {
		return w.destroy()
	}
	return nil
}

// empty removes all that was the builder's.
func (w *workspace) empty() error {
	if w.outer != "" {
		if err := errors.Join(removePath(w.outer), os.Remove(w.path("elsewhere"))); err != nil {
			return err
		}
	} else if err := rmtree.RemoveAt(w.dirFD, "build"); err != nil {
		return err
	}
	w.storeFD, w.world = -1, nil
	if w.ownFD < 0 {
		return nil
	}
	if err := rmtree.RemoveAt(w.dirFD, "tmp"); err != nil {
		return err
	}
	fd := w.ownFD
	w.ownFD = -1
	defer unix.Close(fd)
	if len(w.mounted) == 0 {
		return rmtree.RemoveAt(w.dirFD, "store")
	}
	// No builder sees this folder again: the names in it are moved to a new one.
	if err := rmtree.Empty(fd, func(name string) bool { _, ok := w.mounted[name]; return ok }); err != nil {
		return err
	}
	if err := unix.Renameat(w.dirFD, "store", w.dirFD, "names"); err != nil {
		return fmt.Errorf("keep the names of inputs: %w", err)
	}
	return nil
}

// expect puts the names of inputs that are there from an earlier build into the
// store folder, removes the others, and notes which ones this build leaves.
func (w *workspace) expect(inputs []sandbox.Input) error {
	old := w.mounted
	w.mounted = make(map[string]sandbox.Kind, len(inputs))
	for _, in := range inputs {
		if in.Kind != sandbox.Symlink { // what it says may change
			w.mounted[in.Base] = in.Kind
		}
	}
	if len(old) == 0 {
		return nil
	}
	names, err := openDir(w.path("names"))
	if err != nil {
		return err
	}
	defer unix.Close(names)
	for name, kind := range w.mounted {
		if k, ok := old[name]; !ok || k != kind {
			continue
		}
		if err := unix.Renameat(names, name, w.ownFD, name); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("prepare the name of input '%s': %w", name, err)
		}
	}
	return rmtree.RemoveAt(w.dirFD, "names")
}

// purgeShared removes what no running build may make from the shared folder.
func (w *workspace) purgeShared() error {
	if w.outputs == nil {
		return nil
	}
	s := w.scratch
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range w.outputs {
		if s.inUse[name]--; s.inUse[name] == 0 {
			delete(s.inUse, name)
		}
	}
	w.outputs = nil
	return rmtree.Empty(s.upper, func(name string) bool { return s.inUse[name] > 0 })
}

// close closes what the workspace has open.
func (w *workspace) close() error {
	var err error
	if w.world != nil && w.storeFD == w.ownFD {
		err = w.world.Close()
	}
	w.world = nil
	for _, fd := range []*int{&w.dirFD, &w.ownFD} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	w.storeFD = -1
	return err
}

// destroy removes a workspace with everything in it.
func (w *workspace) destroy() error {
	return errors.Join(w.purgeShared(), w.close(), w.scratch.removeBuild(w.name))
}
