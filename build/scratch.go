package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build/internal/rmtree"
)

// scratch is the folder in which builds run:
//
//	root            empty; where the root folders of builders are mounted
//	builds/N/       one build; the builder cannot reach it from outside its sandbox
//	  store         what it writes to its store folder
//	  build         its build folder, unless that is elsewhere
//	  tmp           its /tmp
//	  work          overlayfs' own
//	  elsewhere     a link to a build folder that is not here
//
// The folder itself is 0700, so nobody but the daemon gets to what lies below,
// whatever modes a builder gives its files.
type scratch struct {
	dir    string
	builds int // descriptor of builds

	mu   sync.Mutex
	next uint64 // number of the next build; guarded by mu
}

// openScratch prepares the folder and removes earlier builds.
func openScratch(dir string) (*scratch, error) {
	s := &scratch{dir: dir, builds: -1}
	for _, d := range []string{dir, s.rootDir(), s.buildsDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create scratch folder: %w", err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("close scratch folder to others: %w", err)
	}
	fd, err := unix.Open(s.buildsDir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open scratch folder '%s': %w", s.buildsDir(), err)
	}
	s.builds = fd
	old, err := os.ReadDir(s.buildsDir())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read scratch folder: %w", err), s.close())
	}
	for _, e := range old {
		if err := s.remove(e.Name()); err != nil {
			return nil, errors.Join(fmt.Errorf("remove an earlier build: %w", err), s.close())
		}
	}
	return s, nil
}

func (s *scratch) close() error {
	if err := unix.Close(s.builds); err != nil {
		return fmt.Errorf("close scratch folder: %w", err)
	}
	return nil
}

func (s *scratch) rootDir() string   { return filepath.Join(s.dir, "root") }
func (s *scratch) buildsDir() string { return filepath.Join(s.dir, "builds") }

// workspace is the folder of one build.
type workspace struct {
	scratch *scratch
	name    string // in builds
	dir     string
	build   string // the build folder, wherever it is
	outer   string // what build lies in, when it is elsewhere and may be kept; or ""
	storeFD int    // descriptor of the folder that takes the outputs
}

const elsewhere = "elsewhere"

func (w *workspace) path(name string) string { return filepath.Join(w.dir, name) }

// owner is who a folder of a workspace belongs to.
type owner struct{ uid, gid int }

// workspaceOptions say what a build needs.
type workspaceOptions struct {
	isolated bool
	builder  owner
	// elsewhere is a folder in which to make the build folder, so that it may
	// be kept, or "".
	elsewhere string
	drvName   string // with ".drv"
}

// create makes the folders of a build.
func (s *scratch) create(o workspaceOptions) (_ *workspace, err error) {
	s.mu.Lock()
	s.next++
	name := strconv.FormatUint(s.next, 10)
	s.mu.Unlock()

	w := &workspace{scratch: s, name: name, dir: filepath.Join(s.buildsDir(), name), storeFD: -1}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create build folder: %w", err), w.remove(false))
		}
	}()
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return nil, err
	}
	if err := w.mkdir(w.path("store"), 0o775|unix.S_ISVTX, owner{0, o.builder.gid}); err != nil {
		return nil, err
	}
	w.storeFD, err = unix.Open(w.path("store"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if o.isolated {
		err = w.mkdir(w.path("tmp"), 0o777|unix.S_ISVTX, owner{0, 0})
	} else {
		err = w.mkdir(w.path("work"), 0o700, owner{0, 0})
	}
	if err != nil {
		return nil, err
	}
	if o.elsewhere == "" {
		w.build = w.path("build")
		return w, w.mkdir(w.build, 0o700, o.builder)
	}
	return w, w.createElsewhere(o)
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
	if err := os.Symlink(dir, w.path(elsewhere)); err != nil {
		return err
	}
	if o.isolated {
		w.build = filepath.Join(dir, "build")
		return w.mkdir(w.build, 0o700, o.builder)
	}
	return os.Lchown(w.build, o.builder.uid, o.builder.gid)
}

// mkdir makes a folder of an exact mode, whatever the umask.
func (w *workspace) mkdir(dir string, mode uint32, o owner) error {
	if err := unix.Mkdir(dir, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	if o != (owner{os.Geteuid(), os.Getegid()}) {
		if err := os.Lchown(dir, o.uid, o.gid); err != nil {
			return err
		}
	}
	if mode == 0o700 {
		return nil
	}
	if err := unix.Chmod(dir, mode); err != nil {
		return &os.PathError{Op: "chmod", Path: dir, Err: err}
	}
	return nil
}

// keep opens the build folder to others and leaves it behind. It returns where
// it is. Every process of the builder is gone by then.
func (w *workspace) keep() (string, error) {
	for _, dir := range []string{w.outer, w.build} {
		if dir == "" {
			continue
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", &os.PathError{Op: "open", Path: dir, Err: err}
		}
		err = unix.Fchmod(fd, 0o755)
		unix.Close(fd)
		if err != nil {
			return "", &os.PathError{Op: "chmod", Path: dir, Err: err}
		}
	}
	return w.build, nil
}

// remove removes everything of a build, except a build folder to be kept that
// lies elsewhere.
func (w *workspace) remove(keepBuild bool) error {
	if w.storeFD >= 0 {
		unix.Close(w.storeFD)
		w.storeFD = -1
	}
	if keepBuild && w.outer != "" {
		if err := os.Remove(w.path(elsewhere)); err != nil {
			return err
		}
	}
	return w.scratch.remove(w.name)
}

// remove removes a build by its number, with its build folder elsewhere.
func (s *scratch) remove(name string) error {
	link, err := os.Readlink(filepath.Join(s.buildsDir(), name, elsewhere))
	if err == nil {
		if err := removePath(link); err != nil {
			return err
		}
	}
	return rmtree.RemoveAt(s.builds, name)
}

// removePath removes a folder and all in it, following no link below its parent.
func removePath(path string) error {
	fd, err := unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(fd)
	return rmtree.RemoveAt(fd, filepath.Base(path))
}
