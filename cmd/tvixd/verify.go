package main

import (
	"errors"

	"github.com/urfave/cli/v2"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "check that the store is sound",
		Description: `Checks that the metadata of every path is complete and that its contents are
there; with --check-contents every byte is read, and the hash of every path is
compared. What is wrong is printed, and then the exit status is 1.`,
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.BoolFlag{Name: "check-contents", Usage: "read everything"},
			&cli.BoolFlag{Name: "repair", Usage: "mend what can be mended"},
		},
		Action: withConnection(0, 0, func(c *cli.Context, conn *connection) error {
			bad, err := conn.VerifyStore(c.Context, c.Bool("check-contents"), c.Bool("repair"))
			if err == nil && bad {
				err = errors.New("the store is damaged")
			}
			return err
		}),
	}
}
