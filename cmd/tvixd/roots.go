package main

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func rootsCommand() *cli.Command {
	return &cli.Command{
		Name:      "roots",
		Usage:     "print what keeps paths from being deleted",
		ArgsUsage: "[PATH…]",
		Description: `Prints every root as 'LINK -> PATH', where LINK is a symbolic link, a file of a
running process, or a word in braces for what has no name. With PATHs only
roots that keep one of these alive, directly or by references.`,
		Flags:  []cli.Flag{dataDirFlag(), jsonFlag()},
		Action: withConnection(0, anyNumber, printRoots),
	}
}

func printRoots(c *cli.Context, conn *connection) error {
	paths, err := conn.storePaths(c.Args().Slice())
	if err != nil {
		return err
	}
	roots, err := conn.FindRoots(c.Context)
	if err != nil {
		return err
	}
	if len(paths) > 0 {
		if roots, err = rootsOf(c, conn, paths, roots); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		type root struct {
			Link string `json:"link"`
			Path string `json:"path"`
		}
		out := make([]root, len(roots))
		for i, r := range roots {
			out[i] = root{r.Link, conn.dir.Join(r.Target)}
		}
		return json.NewEncoder(c.App.Writer).Encode(out)
	}
	for _, r := range roots {
		fmt.Fprintf(c.App.Writer, "%s -> %s\n", r.Link, conn.dir.Join(r.Target))
	}
	return nil
}

// rootsOf keeps the roots that reach one of paths, by going up from these.
func rootsOf(c *cli.Context, conn *connection, paths []storepath.Path, roots []wp.Root) ([]wp.Root, error) {
	reaching := map[storepath.Path]bool{}
	for todo := paths; len(todo) > 0; {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if reaching[p] {
			continue
		}
		reaching[p] = true
		referrers, err := conn.QueryReferrers(c.Context, p)
		if err != nil {
			return nil, err
		}
		todo = append(todo, referrers...)
	}
	var kept []wp.Root
	for _, r := range roots {
		if reaching[r.Target] {
			kept = append(kept, r)
		}
	}
	return kept, nil
}
