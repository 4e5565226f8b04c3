package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build/internal/rmtree"
	"github.com/tvixd/tvixd/build/sandbox"
)

// scratch is the folder in which builds run:
//
//	root            empty; where the root folders of builders are mounted
//	builds/N/       one build at a time
//	  build         its build folder, unless that is elsewhere
//	  store         what it writes to its store folder, when it is isolated
//	  tmp           its /tmp, then
//	  names         between isolated builds: empty files and folders to mount inputs on
//	  upper, work   as below, when it must not share them
//	  elsewhere     a link to a build folder that is not here
//	shared/         of the builds that are not isolated:
//	  upper         what they write to the store folder
//	  work          overlayfs' own
//
// The folder itself is 0700, so nobody but the daemon gets to what lies below,
// whatever modes a builder gives its files.
type scratch struct {
	dir      string
	storeDir string // what builders write to
	lower    string // what shows the valid paths
	builds   int    // descriptor of builds

	mu    sync.Mutex
	next  uint64         // number of the next workspace; guarded by mu
	free  []*workspace   // the last used comes last; guarded by mu
	world *sandbox.World // made when it is needed; guarded by mu
	upper int            // descriptor of the upper folder, with world; guarded by mu
	inUse map[string]int // names in upper that running builds may make; guarded by mu
}

// maxFree is how many workspaces are kept for later builds.
const maxFree = 32

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openScratch prepares the folder and removes what an earlier daemon left.
func openScratch(dir, storeDir, lower string) (*scratch, error) {
	s := &scratch{dir: dir, storeDir: storeDir, lower: lower, builds: -1, upper: -1, inUse: make(map[string]int)}
	for _, d := range []string{dir, s.path("root"), s.path("builds")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create scratch folder: %w", err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("close scratch folder to others: %w", err)
	}
	fd, err := openDir(s.path("builds"))
	if err != nil {
		return nil, fmt.Errorf("open scratch folder: %w", err)
	}
	s.builds = fd
	old, err := os.ReadDir(s.path("builds"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read scratch folder: %w", err), s.close())
	}
	for _, e := range old {
		if err := s.removeBuild(e.Name()); err != nil {
			return nil, errors.Join(fmt.Errorf("remove an earlier build: %w", err), s.close())
		}
	}
	if err := removePath(s.path("shared")); err != nil {
		return nil, errors.Join(fmt.Errorf("remove earlier builds: %w", err), s.close())
	}
	return s, nil
}

func openDir(dir string) (int, error) {
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func (s *scratch) path(name string) string { return filepath.Join(s.dir, name) }

// close removes everything. No build may run.
func (s *scratch) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, w := range s.free {
		errs = append(errs, w.destroy())
	}
	s.free = nil
	if s.world != nil {
		errs = append(errs, s.world.Close(), unix.Close(s.upper), removePath(s.path("shared")))
		s.world = nil
	}
	errs = append(errs, unix.Close(s.builds))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean scratch folder: %w", err)
	}
	return nil
}

// newWorld lays an overlay with its folders in dir, and returns a descriptor of
// the upper one.
func (s *scratch) newWorld(dir string) (_ *sandbox.World, upperFD int, err error) {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{upper, work} {
		if err := removePath(d); err != nil { // of an attempt that failed
			return nil, -1, err
		}
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, -1, err
		}
	}
	// The upper folder's mode is the store folder's.
	if err := unix.Chmod(upper, 0o777|unix.S_ISVTX); err != nil {
		return nil, -1, &os.PathError{Op: "chmod", Path: upper, Err: err}
	}
	if upperFD, err = openDir(upper); err != nil {
		return nil, -1, err
	}
	world, err := sandbox.NewWorld(s.storeDir, s.lower, upper, work)
	if err != nil {
		unix.Close(upperFD)
		return nil, -1, err
	}
	return world, upperFD, nil
}

// removeBuild removes a workspace by its name, with its build folder elsewhere.
func (s *scratch) removeBuild(name string) error {
	link, err := os.Readlink(filepath.Join(s.path("builds"), name, "elsewhere"))
	if err == nil {
		if err := removePath(link); err != nil {
			return err
		}
	}
	return rmtree.RemoveAt(s.builds, name)
}

// removePath removes a file or folder and all in it, following no link below
// its parent.
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
