package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	wp "github.com/tvixd/tvixd/worker-protocol"
)

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:      "gc",
		Usage:     "delete what nothing needs",
		ArgsUsage: "[PATH…]",
		Description: `Finds the roots (links in gcroots and profiles, running processes, what clients
hold at this moment), deletes every store path that none of them leads to, and
gives the space of contents back that no path shares any more. Builds, adds
and reads go on meanwhile.

With PATHs only these are deleted, and it is an error if one of them is alive.
The deleted paths are printed.`,
		Flags: []cli.Flag{
			dataDirFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "print-dead", Usage: "delete nothing, print what would be deleted"},
			&cli.BoolFlag{Name: "print-live", Usage: "delete nothing, print what would stay"},
			&cli.Uint64Flag{Name: "max-freed", Usage: "stop after this number of `BYTES`", Value: wp.GCNoLimit, DefaultText: "no limit"},
		},
		Action: withConnection(0, anyNumber, collect),
	}
}

func collect(c *cli.Context, conn *connection) error {
	paths, err := conn.storePaths(c.Args().Slice())
	if err != nil {
		return err
	}
	request := wp.CollectGarbageRequest{Action: wp.GCDeleteDead, WholeStore: true, MaxFreed: c.Uint64("max-freed")}
	dead, live := c.Bool("print-dead"), c.Bool("print-live")
	switch {
	case dead && live || (dead || live) && len(paths) > 0:
		return statusError{errors.New("--print-dead, --print-live and PATHs exclude each other"), 2}
	case dead:
		request.Action = wp.GCReturnDead
	case live:
		request.Action = wp.GCReturnLive
	case len(paths) > 0:
		request.Action, request.WholeStore, request.Paths = wp.GCDeleteSpecific, false, paths
	}
	result, err := conn.CollectGarbage(c.Context, request)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(map[string]any{
			"paths": append([]string{}, result.Paths...), "bytesFreed": result.BytesFreed,
		})
	}
	for _, p := range result.Paths {
		fmt.Fprintln(c.App.Writer, p)
	}
	if !dead && !live {
		fmt.Fprintf(c.App.ErrWriter, "%d store paths deleted, %s freed\n", len(result.Paths), humanBytes(result.BytesFreed))
	}
	return nil
}

// humanBytes writes a size in the unit that leaves one to four digits before the point.
func humanBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
