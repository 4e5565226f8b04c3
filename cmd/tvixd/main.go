// Command tvixd is a replacement for nix-daemon, and the tools to look after its store.
//
// One file holds one subcommand: its flags, its help text and the wiring of the parts that it
// needs. The parts themselves are in the packages of this module.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v2"
)

// version is set by the linker.
var version = ""

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func main() {
	patience := time.Duration(0)
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		patience = stopTime
	}
	ctx := untilSignal(patience, stopSignals()...)
	app := newApp(os.Stdout, os.Stderr)
	err := app.RunContext(ctx, flagsFirst(app, os.Args))
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(exitCode(err))
	}
}

// A statusError ends the process with a status of its own.
type statusError struct {
	error
	status int
}

func (e statusError) Unwrap() error { return e.error }

func exitCode(err error) int {
	var s statusError
	if errors.As(err, &s) {
		return s.status
	}
	return 1
}

func newApp(stdout, stderr io.Writer) *cli.App {
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintf(c.App.Writer, "tvixd %s\n", c.App.Version) }
	app := &cli.App{
		Name:                   "tvixd",
		Usage:                  "a Nix store daemon on content-addressed storage",
		Version:                versionString(),
		Writer:                 stdout,
		ErrWriter:              stderr,
		HideHelpCommand:        false,
		UseShortOptionHandling: true,
		Description:            appDescription,
		CustomAppHelpTemplate:  cli.AppHelpTemplate + helpSections,
		ExitErrHandler:         func(*cli.Context, error) {}, // main prints it
		OnUsageError:           usageError,
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return statusError{fmt.Errorf("'%s' is no command of tvixd; see 'tvixd help'", name), 2}
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			daemonCommand(),
			gcCommand(),
			verifyCommand(),
			rootsCommand(),
			pathInfoCommand(),
			lsCommand(),
			catCommand(),
			statsCommand(),
			importCommand(),
			exportCommand(),
			configCommand(),
			versionCommand(),
		},
	}
	for _, command := range app.Commands {
		command.OnUsageError = usageError
		command.HideHelpCommand = true
	}
	return app
}

func usageError(c *cli.Context, err error, _ bool) error {
	help := "tvixd help"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "tvixd" {
		help += " " + c.Command.Name
	}
	return statusError{fmt.Errorf("%w; see '%s'", err, help), 2}
}

const appDescription = `tvixd takes the place of nix-daemon. An unmodified nix talks to it through the
usual socket; it builds derivations, collects garbage, and keeps the store as
content-addressed blobs and directories, each stored once, which a FUSE file
system shows as /nix/store.

The commands other than 'daemon' look into a store or work on it. Where a
daemon runs they ask it, with the rights of the calling user; where none runs
they open the data folder themselves, which takes its owner's rights.`

// helpSections follow what the library makes of the commands and flags.
const helpSections = `
ENVIRONMENT:
   NIX_STORE_DIR            the store folder, /nix/store
   NIX_STATE_DIR            roots, profiles and the socket's folder, /nix/var/nix
   NIX_LOG_DIR              build logs, /nix/var/log/nix
   NIX_CONF_DIR             the folder of nix.conf, /etc/nix
   NIX_CONFIG               lines that are read after nix.conf
   NIX_DAEMON_SOCKET_PATH   the socket, $NIX_STATE_DIR/daemon-socket/socket

EXIT STATUS:
   0 success, 1 failure, 2 wrong usage

EXAMPLES:
   tvixd daemon
      serve the store in /var/lib/tvixd
   tvixd path-info --json /nix/store/…-hello
      what is known of a path
   tvixd gc --print-dead
      what a collection would delete
`
