package fuse

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	mountSource = "tvixd"
	mountType   = "fuse.tvixd"
	// probeTime is how long a mount may take to show that it is alive.
	probeTime = 10 * time.Second
	// maxStale bounds how many dead mounts on top of one another are removed.
	maxStale = 32
)

// Mount mounts a store and serves it until it is unmounted, by [Server.Unmount],
// by somebody else or because the context ends. It needs the right to mount.
//
// A mount there whose server has died is removed first. Where something is
// mounted that is alive and of this type, the error wraps [ErrBusy].
func Mount(ctx context.Context, o Options) (*Server, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(o.Mountpoint)
	if err != nil {
		return nil, fmt.Errorf("mount store file system: %w", err)
	}
	o.Mountpoint = path
	if err := prepareMountpoint(path); err != nil {
		return nil, fmt.Errorf("mount store file system: %w", err)
	}
	dev, err := openDevice(o.Logger)
	if err != nil {
		return nil, fmt.Errorf("mount store file system: %w", err)
	}
	s := newServer(&o, dev)
	if err := s.mount(); err != nil {
		s.cancel()
		dev.close()
		return nil, fmt.Errorf("mount store file system on %s: %w", o.Mountpoint, err)
	}
	s.tune()
	go s.watch(ctx)
	return s, nil
}

// protocolOptions are what go-fuse tells the kernel at INIT.
func protocolOptions(o *Options) *gofuse.MountOptions {
	return &gofuse.MountOptions{
		MaxWrite:             maxRead, // also the most that is read at once
		MaxBackground:        32,
		EnableSymlinkCaching: true,
		DisableXAttrs:        !o.Xattr,
		ExtraCapabilities:    gofuse.CAP_READDIRPLUS_AUTO | gofuse.CAP_NO_OPENDIR_SUPPORT,
		// Passthrough would cost a layer of what can be stacked on the mount.
		DisabledCapabilities: gofuse.CAP_PASSTHROUGH,
		Logger:               log.New(logWriter{o.Logger}, "", 0),
		PanicHandler: func(p any) gofuse.Status {
			o.Logger.Error("file system panicked", "panic", p, "stack", string(debug.Stack()))
			return gofuse.EIO
		},
	}
}

// mount does the system call, answers the kernel's first request and starts the
// readers.
func (s *Server) mount() error {
	// With default_permissions the kernel decides who may do what by the modes
	// alone. Otherwise access(2) would be a request to be answered each time.
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d,default_permissions",
		s.dev.fd, os.Geteuid(), os.Getegid(), maxRead)
	if s.opts.AllowOther {
		data += ",allow_other"
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME
	err := unix.Mount(mountSource, s.opts.Mountpoint, mountType, flags, data)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return err
	}
	if err = s.dev.handshake(); err == nil {
		if err = s.identify(); err == nil {
			s.dev.start()
			return nil
		}
	}
	// Closing the descriptor first ends the connection, so that nobody who has
	// come in meanwhile waits.
	s.dev.close()
	_ = unix.Unmount(s.opts.Mountpoint, unix.MNT_DETACH)
	return err
}

// identify learns by which numbers the kernel knows the mount.
func (s *Server) identify() error {
	st, err := statMount(s.opts.Mountpoint)
	if err != nil {
		return fmt.Errorf("stat new mount: %w", err)
	}
	s.mountID, s.minor = st.Mnt_id, st.Dev_minor
	s.bdi = fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
	return nil
}

// statMount asks the kernel about a mount point without a request to its server.
func statMount(path string) (st unix.Statx_t, err error) {
	err = unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID|unix.STATX_TYPE, &st)
	return st, err
}

// tune sets what cannot be set by the protocol. The mount works without it.
func (s *Server) tune() {
	file := "/sys/class/bdi/" + s.bdi + "/read_ahead_kb"
	if err := os.WriteFile(file, []byte(strconv.Itoa(maxRead/1024)), 0); err != nil {
		s.opts.Logger.Debug("set readahead of the mount failed", "error", err)
	}
	if err := s.stopPolling(); err != nil {
		s.opts.Logger.Debug("stop polling of the mount failed", "error", err)
	}
	s.dev.starting.Store(false)
}

// pollName is a file that go-fuse shows in every root.
const pollName = ".go-fuse-epoll-hack"

// stopPolling makes the kernel learn that files here cannot be polled. Go
// programs poll each file that they open; in this process such a poll would hold
// up one of the few threads that could answer it.
func (s *Server) stopPolling() error {
	fd, err := unix.Open(s.opts.Mountpoint+"/"+pollName, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err
}

// prepareMountpoint checks the mount point and removes dead mounts from it.
func prepareMountpoint(path string) error {
	for range maxStale {
		var fs unix.Statfs_t
		// Not stat: the kernel may answer that from its cache for a dead mount.
		switch err := statfsWithin(path, &fs, probeTime); {
		case errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED):
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("remove dead mount from %s: %w", path, err)
			}
			continue
		case err != nil:
			return fmt.Errorf("mount point %s: %w", path, err)
		}
		return checkMountpoint(path, fs.Type)
	}
	return fmt.Errorf("mount point %s: %w: too many dead mounts", path, ErrBusy)
}

func checkMountpoint(path string, fsType int64) error {
	st, err := statMount(path)
	if err != nil {
		return fmt.Errorf("mount point %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("mount point %s: %w", path, syscall.ENOTDIR)
	case fsType == unix.FUSE_SUPER_MAGIC && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return fmt.Errorf("mount point %s: %w: a FUSE file system is mounted there and alive", path, ErrBusy)
	}
	return nil
}

// statfsWithin gives up on a mount whose server does not answer. The system call
// cannot be ended; its thread is lost until somebody aborts that mount.
func statfsWithin(path string, fs *unix.Statfs_t, limit time.Duration) error {
	type answer struct {
		fs  unix.Statfs_t
		err error
	}
	done := make(chan answer, 1)
	go func() {
		var a answer
		a.err = unix.Statfs(path, &a.fs)
		done <- a
	}()
	select {
	case a := <-done:
		*fs = a.fs
		return a.err
	case <-time.After(limit):
		return fmt.Errorf("%w: its server does not answer", ErrBusy)
	}
}
