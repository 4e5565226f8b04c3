package main

import (
	"fmt"
	"os"

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
