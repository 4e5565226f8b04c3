package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	wp "github.com/tvixd/tvixd/worker-protocol"
)

func daemonCommand() *cli.Command {
	return &cli.Command{
		Name:  "daemon",
		Usage: "serve the store to Nix clients and mount it",
		Description: `Opens the data folder, mounts the store on NIX_STORE_DIR, listens on the daemon
socket, and prints one line when it is ready; a service manager that waits for
a notification gets it as well. Sockets that a service manager has opened
(LISTEN_FDS) are taken in place of an own one.

SIGTERM, SIGINT and SIGHUP stop it: no client is accepted any more, running
builds are ended, and the store is unmounted; where programs still use it, it
is detached and goes when they end. Further signals are ignored for 90 seconds.

Who may connect, who is trusted and how builds are run is said by nix.conf, as
for nix-daemon; 'tvixd config' prints what is understood of it. A nix that runs
as root opens a local store by itself, and fails, unless its setting 'store' or
NIX_REMOTE says 'daemon'.

With --stdio one client is served on standard input and output, as sshd starts
it for ssh-ng stores: by passing everything on to the running daemon, or, where
none runs, by opening the store for this client alone.`,
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.StringFlag{Name: "socket-path", Usage: "listen on this socket", EnvVars: []string{"NIX_DAEMON_SOCKET_PATH"}},
			&cli.BoolFlag{Name: "stdio", Usage: "serve standard input and output"},
			&cli.BoolFlag{Name: "force-trusted", Usage: "trust every client"},
			&cli.BoolFlag{Name: "force-untrusted", Usage: "trust no client"},
			&cli.BoolFlag{Name: "default-trust", Usage: "trust as nix.conf says (the default)"},
			&cli.BoolFlag{Name: "process-ops", Usage: "with --stdio: never pass on to a running daemon"},
			&cli.BoolFlag{Name: "no-mount", Usage: "do not mount the store: clients can talk to it, but neither read files nor build"},
			&cli.BoolFlag{Name: "hide-existing", Usage: "mount over a store folder that is not empty"},
			&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", Value: "info", EnvVars: []string{"TVIXD_LOG_LEVEL"}},
			&cli.BoolFlag{Name: "daemon", Hidden: true}, // nix-daemon ignores it, too
		},
		Action: runDaemon,
	}
}

func runDaemon(c *cli.Context) error {
	if c.NArg() > 0 {
		return statusError{fmt.Errorf("unexpected argument '%s'", c.Args().First()), 2}
	}
	logger, err := newLogger(c)
	if err != nil {
		return err
	}
	env, err := readEnvironment(c)
	if err != nil {
		return err
	}
	if path := c.String("socket-path"); path != "" {
		env.layout.Socket = filepath.Clean(path)
	}
	if self, err := os.Executable(); err == nil {
		if err := env.layout.RefuseInside("the program", self); err != nil {
			return err
		}
	}
	if c.Bool("stdio") {
		return runStdio(c, env, logger)
	}
	options, err := daemonOptions(c)
	if err != nil {
		return err
	}
	boundGarbage()
	s, err := startServer(c.Context, env, options, logger)
	if err != nil {
		return err
	}
	return errors.Join(s.serve(c.Context, c.App.Writer), s.close())
}

// boundGarbage lets less garbage pile up than Go usually does, unless GOGC says how much. Most of
// a daemon's heap are caches of a fixed size, of which Go would hold as much again in garbage; a
// collector that runs more often was found to cost nothing that can be measured.
func boundGarbage() {
	const percent = 40
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

func newLogger(c *cli.Context) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, statusError{fmt.Errorf("log level '%s' is not known", c.String("log-level")), 2}
	}
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level})), nil
}

// daemonOptions reads the flags.
func daemonOptions(c *cli.Context) (serverOptions, error) {
	o := serverOptions{dataDir: c.String("data-dir"), mount: !c.Bool("no-mount"), hide: c.Bool("hide-existing")}
	switch trusted, untrusted := c.Bool("force-trusted"), c.Bool("force-untrusted"); {
	case trusted && untrusted:
		return o, statusError{errors.New("--force-trusted and --force-untrusted exclude each other"), 2}
	case trusted:
		o.trust = wp.Trusted
	case untrusted:
		o.trust = wp.NotTrusted
	}
	return o, nil
}
