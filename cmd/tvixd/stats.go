package main

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/daemon"
)

func statsCommand() *cli.Command {
	return &cli.Command{
		Name:  "stats",
		Usage: "print how large the store is",
		Description: `Prints the number of paths and their size as archives, and what their contents
take: the blobs, chunks and directories that they consist of, each counted
once, and the space on disk. A running daemon tells its own user only.`,
		Flags:  []cli.Flag{dataDirFlag(), jsonFlag()},
		Action: withConnection(0, 0, printStats),
	}
}

func printStats(c *cli.Context, conn *connection) error {
	var s daemon.Stats
	var err error
	if conn.local != nil {
		s, err = conn.local.daemon.Stats(c.Context)
	} else {
		err = askControl(c.Context, conn.layout, "/stats", &s)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(s)
	}
	fmt.Fprintf(c.App.Writer, "paths      %d, %s as archives\n", s.Paths, humanBytes(s.NarBytes))
	fmt.Fprintf(c.App.Writer, "contents   %d blobs, chunks and directories, %s\n", s.Objects, humanBytes(s.ObjectBytes))
	fmt.Fprintf(c.App.Writer, "on disk    %s in %d packs\n", humanBytes(s.StoredBytes), s.Packs)
	fmt.Fprintf(c.App.Writer, "clients    %d\n", s.Clients)
	return nil
}
