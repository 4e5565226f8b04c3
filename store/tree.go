package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/storepath"
)

// TreeOptions say what to do with a tree besides storing it.
type TreeOptions struct {
	// Candidates are the paths that the contents may refer to.
	Candidates []storepath.Path

	// Path names the tree in errors, as in "file '<Path>/pipe' has an
	// unsupported type". The zero value is the name given to IngestTree.
	Path string

	// Check is called for every file, directory and link, before it is read,
	// with its path relative to the root of the tree ("" is the root) and its
	// status. An error ends the ingestion.
	Check func(rel string, st *unix.Stat_t) error
}

// IngestTree puts a file, directory or link on disk into the castore: the
// entry name of the open folder dirfd. Everything is opened relative to a
// descriptor that is open already, and no link is followed, so nothing outside
// of the tree is ever read, whatever somebody does to it meanwhile. What is
// stored is what was read: a file that grows, shrinks or is written during
// that gives an error that wraps ErrFileChanged.
//
// Of the metadata only the executable bit of the owner is taken. Devices,
// pipes and sockets give an error that wraps ErrUnsupportedFile.
func (s *Store) IngestTree(ctx context.Context, dirfd int, name string, o TreeOptions) (*Ingested, error) {
	w := treeWalk{opts: o}
	if w.opts.Path == "" {
		w.opts.Path = name
	}
	return s.ingest(ctx, IngestOptions{Candidates: o.Candidates}, func(in *ingest) error {
		w.in = in
		return w.entry(&folder{fd: dirfd}, name, "", "")
	})
}

// treeWalk feeds a pipeline from a tree on disk.
type treeWalk struct {
	in    *ingest
	opts  TreeOptions
	depth int // of the folder that is being read
}

// maxOpenFolders bounds the descriptors that a walk holds: of a deeper tree the
// outer folders are closed, and opened again on the way back.
const maxOpenFolders = 64

// folder is a folder on the way from the root to where the walk is.
type folder struct {
	fd int // -1 while it is closed
	st unix.Stat_t
}

func (f *folder) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// reopen opens f again from its child, and fails if that was moved elsewhere.
func (f *folder) reopen(child *folder) error {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(child.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		unix.Close(fd)
		return err
	}
	if now.Dev != f.st.Dev || now.Ino != f.st.Ino {
		unix.Close(fd)
		return ErrFileChanged
	}
	f.fd = fd
	return nil
}

func (w *treeWalk) fail(rel, verb string, err error) error {
	return fmt.Errorf("%s '%s': %w", verb, w.full(rel), err)
}

func (w *treeWalk) full(rel string) string {
	if rel == "" {
		return w.opts.Path
	}
	return w.opts.Path + "/" + rel
}

// entry feeds the entry file of a folder, as name.
func (w *treeWalk) entry(parent *folder, file, rel, name string) error {
	if err := w.in.ctx.Err(); err != nil {
		return context.Cause(w.in.ctx)
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(parent.fd, file, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return w.fail(rel, "stat", err)
	}
	if w.opts.Check != nil {
		if err := w.opts.Check(rel, &st); err != nil {
			return err
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return w.link(parent.fd, file, rel, name)
	case unix.S_IFREG:
		return w.file(parent.fd, file, rel, name, &st)
	case unix.S_IFDIR:
		return w.directory(parent, file, rel, name, st)
	}
	return &nixError{
		msg:   fmt.Sprintf("file '%s' has an unsupported type", w.full(rel)),
		cause: ErrUnsupportedFile,
	}
}

func (w *treeWalk) link(dirfd int, file, rel, name string) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dirfd, file, buf)
	if err != nil {
		return w.fail(rel, "read link", err)
	}
	return w.in.symlink(name, string(buf[:n]))
}

// open opens what st was read of, and fails if that is something else by now.
func (w *treeWalk) open(dirfd int, file, rel string, st *unix.Stat_t, flags int) (fd int, err error) {
	err = retry(func() (err error) {
		// Not to be caught by a pipe that took the place of a file.
		flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
		fd, err = unix.Openat(dirfd, file, flags, 0)
		return err
	})
	if err != nil {
		return -1, w.fail(rel, "open", err)
	}
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		unix.Close(fd)
		return -1, w.fail(rel, "stat", err)
	}
	if now.Dev != st.Dev || now.Ino != st.Ino || now.Mode&unix.S_IFMT != st.Mode&unix.S_IFMT {
		unix.Close(fd)
		return -1, w.fail(rel, "open", ErrFileChanged)
	}
	*st = now
	return fd, nil
}

func (w *treeWalk) file(dirfd int, file, rel, name string, st *unix.Stat_t) error {
	fd, err := w.open(dirfd, file, rel, st, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r := &fileReader{fd: fd}
	err = w.in.file(name, st.Mode&unix.S_IXUSR != 0, uint64(st.Size), r)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return w.fail(rel, "read", ErrFileChanged)
	case r.err != nil:
		return w.fail(rel, "read", r.err)
	case err != nil:
		return err
	}
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return w.fail(rel, "stat", err)
	}
	if now.Size != st.Size || now.Mtim != st.Mtim || now.Ctim != st.Ctim {
		return w.fail(rel, "read", ErrFileChanged)
	}
	return nil
}

func (w *treeWalk) directory(parent *folder, file, rel, name string, st unix.Stat_t) error {
	fd, err := w.open(parent.fd, file, rel, &st, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	d := &folder{fd: fd, st: st}
	defer d.close()
	names, err := readNames(fd)
	if err != nil {
		return w.fail(rel, "read directory", err)
	}
	if err := w.in.enter(name); err != nil {
		return err
	}
	w.depth++
	if w.depth > maxOpenFolders {
		parent.close()
	}
	for _, child := range names {
		childRel := child
		if rel != "" {
			childRel = rel + "/" + child
		}
		err := w.entry(d, child, childRel, child)
		if errors.Is(err, fs.ErrNotExist) {
			return w.fail(childRel, "read", ErrFileChanged)
		}
		if err != nil {
			return err
		}
	}
	// Only the time of the contents: that of the status may change with the
	// folder's own name.
	var now unix.Stat_t
	if err := unix.Fstat(d.fd, &now); err != nil {
		return w.fail(rel, "stat", err)
	}
	if now.Mtim != st.Mtim {
		return w.fail(rel, "read directory", ErrFileChanged)
	}
	if w.depth > maxOpenFolders {
		if err := parent.reopen(d); err != nil {
			return w.fail(rel, "leave directory", err)
		}
	}
	w.depth--
	return w.in.leave()
}

// readNames returns the names in an open folder, sorted.
func readNames(fd int) ([]string, error) {
	buf := getBuffer(64 << 10)
	defer putBuffer(buf)
	var names []string
	for {
		var n int
		err := retry(func() (err error) {
			n, err = unix.ReadDirent(fd, buf)
			return err
		})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			slices.Sort(names)
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// fileReader reads a descriptor without the runtime's poller, which has no use
// for plain files, and keeps the error.
type fileReader struct {
	fd  int
	err error
}

func (r *fileReader) Read(p []byte) (int, error) {
	var n int
	r.err = retry(func() (err error) {
		n, err = unix.Read(r.fd, p)
		return err
	})
	switch {
	case r.err != nil:
		return 0, r.err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// retry repeats a call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
