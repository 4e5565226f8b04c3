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
// Where nothing that a builder held can have got out of its sandbox they are
// used again by later builds: on some disks making and removing folders costs
// more than the rest of a small build. The names of store paths, on which the
// inputs are mounted, stay for the same reason.
type workspace struct {
	scratch *scratch
	name    string // in builds
	dir     string
	reused  bool // may be

	build   string // the build folder, wherever it is
	outer   string // what build lies in, or build itself, when it is elsewhere; or ""
	buildFD int    // -1 when the build folder is elsewhere
	tmpFD   int    // these two are of isolated builds, else -1
	ownFD   int    // the folder "store", or an upper folder of its own

	// storeFD is where the outputs are: ownFD, or the shared upper folder.
	storeFD int
	world   *sandbox.World          // of a build that is not isolated
	outputs []string                // names that a build which is not isolated may make
	mounted map[string]sandbox.Kind // names in "store" for inputs
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
		buildFD: -1, tmpFD: -1, ownFD: -1, storeFD: -1, mounted: make(map[string]sandbox.Kind),
	}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return nil, err
	}
	return w, nil
}

// prepare makes the folders that are not there and gives them to the builder.
func (w *workspace) prepare(o workspaceOptions) error {
	w.reused = o.reuse
	w.build, w.outer = w.path("build"), ""
	if o.elsewhere == "" {
		if err := w.folder(&w.buildFD, "build", 0o700, o.builder); err != nil {
			return err
		}
	} else if err := w.createElsewhere(o); err != nil {
		return err
	}
	if !o.isolated {
		return w.share(o)
	}
	if err := w.folder(&w.tmpFD, "tmp", 0o777|unix.S_ISVTX, owner{0, 0}); err != nil {
		return err
	}
	if err := w.folder(&w.ownFD, "store", 0o775|unix.S_ISVTX, owner{0, o.builder.gid}); err != nil {
		return err
	}
	w.storeFD = w.ownFD
	return nil
}

// folder opens a folder of the workspace, making it if it is not there, and
// sets its owner and mode.
func (w *workspace) folder(fd *int, name string, mode uint32, o owner) (err error) {
	dir := w.path(name)
	if *fd < 0 {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if *fd, err = openDir(dir); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(*fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if int(st.Uid) != o.uid || int(st.Gid) != o.gid {
		if err := unix.Fchown(*fd, o.uid, o.gid); err != nil {
			return &os.PathError{Op: "chown", Path: dir, Err: err}
		}
	}
	if st.Mode&0o7777 != mode {
		if err := unix.Fchmod(*fd, mode); err != nil {
			return &os.PathError{Op: "chmod", Path: dir, Err: err}
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

// empty makes a workspace like new.
func (w *workspace) empty() error {
	if w.outer != "" {
		if err := errors.Join(removePath(w.outer), os.Remove(w.path("elsewhere"))); err != nil {
			return err
		}
	}
	for _, fd := range []int{w.buildFD, w.tmpFD} {
		if fd >= 0 {
			if err := rmtree.Empty(fd, nil); err != nil {
				return err
			}
		}
	}
	w.storeFD, w.world = -1, nil
	if w.ownFD < 0 {
		return nil
	}
	return rmtree.Empty(w.ownFD, func(name string) bool { _, ok := w.mounted[name]; return ok })
}

// forget removes the names of inputs that the next build does not have, and
// notes those that it has.
func (w *workspace) forget(inputs []sandbox.Input) error {
	needed := make(map[string]sandbox.Kind, len(inputs))
	for _, in := range inputs {
		if in.Kind != sandbox.Symlink { // what it says may change
			needed[in.Base] = in.Kind
		}
	}
	for name, kind := range w.mounted {
		if k, ok := needed[name]; ok && k == kind {
			continue
		}
		if err := rmtree.RemoveAt(w.ownFD, name); err != nil {
			return err
		}
	}
	w.mounted = needed
	return nil
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
	for _, fd := range []*int{&w.buildFD, &w.tmpFD, &w.ownFD} {
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
