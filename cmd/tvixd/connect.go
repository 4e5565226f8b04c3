package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/daemon"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// A connection is how the commands reach a store: through the running daemon, or through one in
// this process that has this command for its only client. Both understand the same.
type connection struct {
	*wp.Client
	layout daemon.Layout
	dir    storepath.Dir // of layout
	local  *server       // nil: another process has the store
}

// connect finds the store.
func connect(c *cli.Context) (*connection, error) {
	env, err := readEnvironment(c)
	if err != nil {
		return nil, err
	}
	socket, err := daemon.Dial(env.layout.Socket)
	if err == nil {
		return newConnection(c, env, socket, nil)
	}
	if !noDaemon(err) {
		return nil, err
	}
	if _, err := os.Stat(c.String("data-dir")); err != nil {
		return nil, fmt.Errorf("no daemon listens on %s, and there is no data folder %s", env.layout.Socket, c.String("data-dir"))
	}
	logger := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := startServer(c.Context, env, serverOptions{dataDir: c.String("data-dir"), alone: true}, logger)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	go s.daemon.ServePrivate(theirs)
	return newConnection(c, env, ours, s)
}

func newConnection(c *cli.Context, env *environment, conn net.Conn, local *server) (*connection, error) {
	client, err := wp.NewClient(c.Context, conn, wp.ClientOptions{
		Dir: env.layout.Store,
		Log: func(m wp.LogMessage) {
			if m.Kind == wp.LogNext {
				fmt.Fprint(c.App.ErrWriter, m.Text)
			}
		},
	})
	if err != nil {
		if local != nil {
			err = errors.Join(err, local.close())
		}
		return nil, err
	}
	return &connection{Client: client, layout: env.layout, dir: env.layout.Store, local: local}, nil
}

func (c *connection) close() error {
	err := c.Client.Close()
	if c.local != nil {
		err = errors.Join(err, c.local.close())
	}
	return err
}

const anyNumber = -1

// withConnection makes an action of one that needs a store, and from min to max arguments.
func withConnection(min, max int, f func(*cli.Context, *connection) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() < min {
			return statusError{fmt.Errorf("'tvixd %s' needs %s; see 'tvixd help %[1]s'", c.Command.Name, c.Command.ArgsUsage), 2}
		}
		if max != anyNumber && c.NArg() > max {
			return statusError{fmt.Errorf("unexpected argument '%s'; see 'tvixd help %s'", c.Args().Get(max), c.Command.Name), 2}
		}
		conn, err := connect(c)
		if err != nil {
			return err
		}
		return errors.Join(f(c, conn), conn.close())
	}
}

// storePath reads an argument: a store path, a path within one, or a link that leads to one.
func (c *connection) storePath(arg string) (p storepath.Path, sub string, err error) {
	full, err := filepath.Abs(arg)
	if err != nil {
		return p, "", err
	}
	for range 64 {
		if c.dir.Contains(full) {
			return c.dir.ParseInside(full)
		}
		target, err := os.Readlink(full)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(full), target)
		}
		full = filepath.Clean(target)
	}
	return p, "", fmt.Errorf("path '%s' is not in the Nix store", arg)
}

// storePaths reads arguments that name store paths as such.
func (c *connection) storePaths(args []string) ([]storepath.Path, error) {
	paths := make([]storepath.Path, len(args))
	for i, arg := range args {
		p, sub, err := c.storePath(arg)
		if err != nil {
			return nil, err
		}
		if sub != "" && sub != "/" {
			return nil, fmt.Errorf("'%s' lies within a store path", arg)
		}
		paths[i] = p
	}
	return paths, nil
}
