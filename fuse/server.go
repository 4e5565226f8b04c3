package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Server is a mount. All methods may be called concurrently.
type Server struct {
	opts    *Options
	dev     *device
	fs      *fileSystem
	cancel  context.CancelFunc // ends what the file system is doing
	done    chan struct{}      // closed when nothing is served any more
	mountID uint64
	minor   uint32 // of the device number; it names the connection
	bdi     string

	unmountMu sync.Mutex
	unmounted bool // guarded by unmountMu
}

func newServer(o *Options, dev *device) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		opts:   o,
		dev:    dev,
		fs:     newFileSystem(ctx, o),
		cancel: cancel,
		done:   make(chan struct{}),
	}
	// What is still being answered need not be finished when nobody listens.
	dev.ended = cancel
	dev.protocol = gofuse.NewProtocolServer(s.fs, protocolOptions(o))
	return s
}

// endTime is how long the end of an unmounted file system may take.
const endTime = 5 * time.Second

// watch unmounts when the context ends, and cleans up when the kernel has ended
// the connection.
func (s *Server) watch(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = s.Unmount() })
	defer stop()
	s.dev.readers.Wait()
	s.dev.close()
	s.fs.blobs.purge()
	close(s.done)
}

// Wait returns when nothing is served any more: after an unmount, and not before
// the last process has let go of a mount that was detached lazily.
func (s *Server) Wait() { <-s.done }

// Done is closed when Wait would return.
func (s *Server) Done() <-chan struct{} { return s.done }

// Added tells that names have come into the root. They can be looked up without
// it; after it they are listed too. Like Removed, it may wait for requests in the
// root that are under way.
func (s *Server) Added(names []string) {
	if len(names) == 0 {
		return
	}
	if !s.opts.ListRoot {
		s.fs.root.touch()
		s.notify(invalidAttr(rootID))
		return
	}
	// One name does: no other one was kept as missing.
	s.changed(names, names[:1], false)
}

// Removed tells that names have gone from the root: Roots must not find them any
// more. When it returns, no path leads to them; processes that are inside keep
// what the kernel has in its caches. It waits for requests in the root that are
// under way, so that it must not be called from Roots, nor under a lock that
// Roots takes.
func (s *Server) Removed(names []string) {
	if len(names) == 0 {
		return
	}
	s.changed(names, names, true)
	s.fs.blobs.purge()
}

// changed tells the kernel of a change. Four steps in this order make its cache
// of the root's listing correct while others read the root:
//
//  1. From now on all that is listed is new.
//  2. Telling of an entry takes the kernel's lock of the root, which readers
//     share: behind it, all that was listed before is in the cache, with the old
//     time of the root or without any.
//  3. The root gets a new time,
//  4. and the kernel must ask for it. It drops a cache with another time.
//
// Without the second step, an old piece that is on its way could come into a
// cache that was begun with the new time.
func (s *Server) changed(names, tell []string, removed bool) {
	s.fs.root.change(names, removed)
	for _, name := range tell {
		s.notify(invalidEntry(rootID, name))
	}
	s.fs.root.touch()
	s.notify(invalidAttr(rootID))
}

func (s *Server) notify(message []byte) {
	switch err := s.dev.notify(message); {
	case err == nil,
		errors.Is(err, unix.ENOENT), // not in the kernel's caches
		errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTCONN):
	default:
		s.opts.Logger.Error("notify the kernel failed", slog.Any("error", err))
	}
}

// Unmount takes the mount away. If it is in use it is detached: the mount point
// is free at once, and processes that are inside are served until they leave.
// Unmounting what is not mounted any more is no error.
func (s *Server) Unmount() error {
	s.unmountMu.Lock()
	defer s.unmountMu.Unlock()
	if s.unmounted {
		return nil
	}
	path := s.opts.Mountpoint
	if st, err := statMount(path); err != nil || st.Mnt_id != s.mountID {
		// Gone, or below another mount, which is not ours to take away.
		select {
		case <-s.done:
			s.unmounted = true
			return nil
		default:
			return fmt.Errorf("unmount %s: the store is not what is mounted there", path)
		}
	}
	err := unix.Unmount(path, 0)
	busy := errors.Is(err, unix.EBUSY)
	if busy {
		err = unix.Unmount(path, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	s.unmounted = true
	if !busy {
		s.awaitEnd()
	}
	return nil
}

// awaitEnd waits for the end of the service, but not for long: a copy of the
// mount in another namespace keeps it alive.
func (s *Server) awaitEnd() {
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
}

// Close unmounts and ends the service at once: whoever is still inside gets
// ENOTCONN.
func (s *Server) Close() error {
	err := s.Unmount()
	select {
	case <-s.done:
		return err
	default:
	}
	if abortErr := s.Abort(); abortErr != nil {
		return errors.Join(err, abortErr)
	}
	s.Wait()
	return err
}

// Abort ends the service at once and leaves a dead mount, if it is still there:
// whoever waits for an answer, or asks later, gets ENOTCONN.
func (s *Server) Abort() error {
	if err := abortConnection(s.minor); err != nil {
		return fmt.Errorf("abort store file system on %s: %w", s.opts.Mountpoint, err)
	}
	return nil
}

// abortConnection uses the control file system, which may be mounted or not.
func abortConnection(number uint32) error {
	name := filepath.Join(strconv.FormatUint(uint64(number), 10), "abort")
	err := os.WriteFile(filepath.Join("/sys/fs/fuse/connections", name), []byte("1"), 0)
	if err == nil {
		return nil
	}
	fsfd, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open fusectl: %w", err)
	}
	defer func() { _ = unix.Close(fsfd) }()
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return fmt.Errorf("create fusectl: %w", err)
	}
	dir, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("mount fusectl: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	file, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // the connection has ended
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { _ = unix.Close(file) }()
	if _, err := unix.Write(file, []byte("1")); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
