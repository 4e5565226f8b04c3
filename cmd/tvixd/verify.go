package main

import (
	"errors"

	"github.com/urfave/cli/v2"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "check that the store is sound",
		Description: `Reads every byte of the store and compares the hash of every path. What is
wrong is printed, and then the exit status is 1. With --fast nothing is read
but metadata: it must be complete, and what it speaks of must be there.`,
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.BoolFlag{Name: "fast", Usage: "do not read contents"},
			&cli.BoolFlag{Name: "check-contents", Hidden: true}, // the default, as nix-store calls it
			&cli.BoolFlag{Name: "repair", Usage: "mend what can be mended"},
		},
		Action: withConnection(0, 0, func(c *cli.Context, conn *connection) error {
			bad, err := conn.VerifyStore(c.Context, c.Bool("check-contents") || !c.Bool("fast"), c.Bool("repair"))
			if err == nil && bad {
				err = errors.New("the store is damaged")
			}
			return err
		}),
	}
}
