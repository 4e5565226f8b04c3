package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/daemon"
	"github.com/tvixd/tvixd/daemon/nixconf"
)

const defaultDataDir = "/var/lib/tvixd"

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}
}

func dataDirFlag() cli.Flag {
	return &cli.StringFlag{
		Name:    "data-dir",
		Usage:   "the folder that holds the store's data",
		Value:   defaultDataDir,
		EnvVars: []string{"TVIXD_DATA_DIR"},
	}
}

// flagsFirst puts a command's flags before its arguments, among which users write them as well.
// What follows "--" stays as it is.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	command := app.Command(args[1])
	if command == nil {
		return args
	}
	takesValue := map[string]bool{}
	for _, flag := range command.Flags {
		documented, ok := flag.(cli.DocGenerationFlag)
		for _, name := range flag.Names() {
			takesValue[name] = ok && documented.TakesValue()
		}
	}
	var flags, rest []string
	for todo := args[2:]; len(todo) > 0; {
		arg := todo[0]
		todo = todo[1:]
		switch {
		case arg == "--":
			rest, todo = append(rest, todo...), nil
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			rest = append(rest, arg)
		default:
			flags = append(flags, arg)
			if takesValue[strings.TrimLeft(arg, "-")] && len(todo) > 0 {
				flags, todo = append(flags, todo[0]), todo[1:]
			}
		}
	}
	out := append(append([]string{}, args[:2]...), flags...)
	if len(rest) > 0 {
		out = append(append(out, "--"), rest...)
	}
	return out
}

// environment is what every command reads from outside: where things lie, and nix.conf.
type environment struct {
	layout daemon.Layout
	config *nixconf.Config
}

// readEnvironment reads the environment variables and nix.conf, and prints the latter's
// warnings.
func readEnvironment(c *cli.Context) (*environment, error) {
	layout, err := daemon.LayoutFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	config, err := nixconf.Load(nixconf.ThisHost(), os.Getenv)
	if err != nil {
		return nil, err
	}
	for _, warning := range config.TakeWarnings() {
		fmt.Fprintln(c.App.ErrWriter, "warning:", warning)
	}
	return &environment{layout, config}, nil
}
