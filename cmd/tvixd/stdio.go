package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/daemon"
)

// runStdio serves the client on standard input and output.
func runStdio(c *cli.Context, env *environment, logger *slog.Logger) error {
	if !c.Bool("process-ops") {
		conn, err := daemon.Dial(env.layout.Socket)
		switch {
		case err == nil && c.Bool("force-untrusted"):
			conn.Close()
			return errors.New("a daemon is running, which decides by itself whom it trusts; " +
				"start it with --force-untrusted, or connect as a user that it does not trust")
		case err == nil:
			return proxy(c.Context, conn, os.Stdin, os.Stdout)
		case !noDaemon(err):
			return err
		}
	}
	options, err := daemonOptions(c)
	if err != nil {
		return err
	}
	options.alone = true
	s, err := startServer(c.Context, env, options, logger)
	if err != nil {
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return errors.Join(err, s.close())
	}
	go s.daemon.ServePrivate(theirs)
	return errors.Join(proxy(c.Context, ours, os.Stdin, os.Stdout), s.close())
}

// socketPair is a connection of this process with itself. Standard input and output are copied
// to and from it, for a read from them cannot be broken off.
func socketPair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("connect standard input and output: %w", err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("connect standard input and output: %w", err)
		}
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1], nil
}

// noDaemon reports whether an error of Dial means that nobody listens.
func noDaemon(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

// proxy passes bytes on between a client on two pipes and the daemon, until the daemon closes the
// connection or the client reads no more.
func proxy(ctx context.Context, conn *net.UnixConn, in io.Reader, out *os.File) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() {
		// What the client has not read yet still comes, unless it is gone.
		if _, err := io.Copy(conn, in); err == nil {
			_ = conn.CloseWrite()
		}
	}()
	go func() {
		waitForHangup(out)
		conn.Close()
	}()
	_, err := io.Copy(out, conn)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EPIPE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pass on to the daemon: %w", err)
	}
	return nil
}

// waitForHangup returns when nobody can read what is written to f; never for a file.
func waitForHangup(f *os.File) {
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	for {
		_, err := unix.Poll(fds, -1)
		if err == nil || !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
