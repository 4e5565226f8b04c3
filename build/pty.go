package build

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build/sandbox"
)

// openPTY opens a terminal for the builder's output, so that programs write
// line by line and in colour. Ours is the master.
func openPTY(u sandbox.User) (master, slave *os.File, err error) {
	fail := func(what string, err error) (*os.File, *os.File, error) {
		return nil, nil, fmt.Errorf("open terminal for the builder: %s: %w", what, err)
	}
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fail("/dev/ptmx", err)
	}
	defer func() {
		if err != nil && master == nil {
			unix.Close(fd)
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fail("unlock", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail("slave", errno)
	}
	slave = os.NewFile(peer, "pts")
	defer func() {
		if err != nil {
			slave.Close()
		}
	}()
	if err := makeRaw(int(peer)); err != nil {
		return fail("set raw mode", err)
	}
	if u.Switch {
		if err := unix.Fchown(int(peer), int(u.UID), 0); err != nil {
			return fail("change owner", err)
		}
		if err := unix.Fchmod(int(peer), 0o600); err != nil {
			return fail("change mode", err)
		}
	}
	return os.NewFile(uintptr(fd), "ptmx"), slave, nil
}

// makeRaw keeps the terminal from changing what passes through it.
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}
