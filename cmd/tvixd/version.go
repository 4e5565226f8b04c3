package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	workerprotocol "github.com/tvixd/tvixd/worker-protocol"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Description: `Prints the version of tvixd, the newest version of the worker protocol that it
speaks and the oldest one that it serves.`,
		Flags:  []cli.Flag{jsonFlag()},
		Action: printVersion,
	}
}

func printVersion(c *cli.Context) error {
	newest, oldest := workerprotocol.MaxVersion.String(), workerprotocol.MinVersion.String()
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(map[string]string{
			"version": versionString(), "protocol": newest, "oldestProtocol": oldest, "go": runtime.Version(),
		})
	}
	_, err := fmt.Fprintf(c.App.Writer, "tvixd %s\nworker protocol %s to %s\n", versionString(), oldest, newest)
	return err
}
