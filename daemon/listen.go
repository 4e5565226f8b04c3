package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrSocketInUse means that another process answers on the socket.
var ErrSocketInUse = errors.New("another daemon is listening")

// maxSocketPath is what fits into a socket address, with its final NUL.
const maxSocketPath = 107

// Listen makes a socket; mode says who may connect. A socket that nobody listens on is replaced;
// where somebody does, the error is ErrSocketInUse. The folder must be there. When the listener is
// closed the file stays, as with nix-daemon: clients are told that nobody listens, and do not take
// the machine for one without a daemon.
func Listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	address, done, err := socketAddress(path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer done()
	if err := clearStale(path, address); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: its folder does not exist", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// Dial connects to the daemon that listens on path.
func Dial(path string) (*net.UnixConn, error) {
	address, done, err := socketAddress(path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	defer done()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return conn, nil
}

// socketAddress returns a name of path that fits into a socket address, valid until done is
// called.
func socketAddress(path string) (address string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	address = "/proc/self/fd/" + strconv.Itoa(fd) + "/" + filepath.Base(path)
	return address, func() { unix.Close(fd) }, nil
}

func clearStale(path, address string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %s: a file that is no socket is in the way", path)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: address, Net: "unix"})
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("listen on %s: %w", path, ErrSocketInUse)
	case errors.Is(err, unix.EAGAIN): // a full queue is somebody's, too
		return fmt.Errorf("listen on %s: %w", path, ErrSocketInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace a stale socket: %w", err)
	}
	return nil
}

// firstActivated is the descriptor at which systemd's sockets begin.
const firstActivated = 3

// Activated returns the sockets that a service manager passed to this process: none if it
// passed none. They are closed on exec, and the variables that named them are gone afterwards.
func Activated() ([]net.Listener, error) {
	count, pid := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID")
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	if count == "" {
		return nil, nil
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("unexpected systemd environment variables")
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1000 {
		return nil, fmt.Errorf("take over sockets: LISTEN_FDS is '%s'", count)
	}
	var listeners []net.Listener
	for fd := firstActivated; fd < firstActivated+n; fd++ {
		unix.CloseOnExec(fd)
		file := os.NewFile(uintptr(fd), "activated socket")
		l, err := net.FileListener(file)
		file.Close()
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, fmt.Errorf("take over socket %d: %w", fd, err)
		}
		if unixListener, ok := l.(*net.UnixListener); ok {
			unixListener.SetUnlinkOnClose(false)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}
