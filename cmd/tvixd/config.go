package main

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:      "config",
		Usage:     "print the settings that the daemon would run with",
		ArgsUsage: "[NAME…]",
		Description: `Reads nix.conf, the files that it includes and NIX_CONFIG, and prints every
setting with its value, as lines that nix.conf may hold; with NAMEs only
those. Unknown settings are warned of. A value that Nix would refuse ends the
command with Nix's message, as it ends 'tvixd daemon'.`,
		Flags:  []cli.Flag{jsonFlag()},
		Action: printConfig,
	}
}

func printConfig(c *cli.Context) error {
	env, err := readEnvironment(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		out := json.NewEncoder(c.App.Writer)
		out.SetEscapeHTML(false)
		return out.Encode(env.config)
	}
	if c.NArg() == 0 {
		_, err = fmt.Fprint(c.App.Writer, env.config)
		return err
	}
	for _, name := range c.Args().Slice() {
		value, ok := env.config.Lookup(name)
		if !ok {
			return fmt.Errorf("could not find setting '%s'", name)
		}
		if _, err := fmt.Fprintln(c.App.Writer, value); err != nil {
			return err
		}
	}
	return nil
}
