package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "copy paths out of the store",
		ArgsUsage: "PATH…",
		Description: `Writes the PATHs to standard output, in the form that 'nix-store --import' and
'tvixd import' read. With --nar the archive of the one PATH is written; with
--to every PATH is written as files and folders, into a folder that is made if
it is missing, under the name that it has in the store.`,
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: "also what the PATHs refer to, and so on"},
			&cli.BoolFlag{Name: "nar", Usage: "write the bare archive"},
			&cli.StringFlag{Name: "to", Usage: "write files and folders into `DIR`"},
		},
		Action: withConnection(1, anyNumber, export),
	}
}

func export(c *cli.Context, conn *connection) error {
	paths, err := conn.storePaths(c.Args().Slice())
	if err != nil {
		return err
	}
	known := &knownInfos{c: c, conn: conn, infos: map[storepath.Path]*wp.PathInfo{}}
	if c.Bool("recursive") {
		if paths, _, err = known.closure(paths...); err != nil {
			return err
		}
	}
	switch dir := c.String("to"); {
	case dir != "" && c.Bool("nar"):
		return statusError{errors.New("--nar and --to exclude each other"), 2}
	case dir != "":
		return exportFiles(c, conn, paths, dir)
	case c.Bool("nar") && len(paths) != 1:
		return statusError{errors.New("--nar writes one PATH"), 2}
	}
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	if c.Bool("nar") {
		err = conn.NarFromPath(c.Context, paths[0], out)
	} else {
		err = exportStream(c, conn, known, paths, out)
	}
	return errors.Join(err, out.Flush())
}

// exportStream writes references before what refers to them, as an import needs them.
func exportStream(c *cli.Context, conn *connection, known *knownInfos, paths []storepath.Path, out io.Writer) error {
	sorted, err := known.referencesFirst(paths)
	if err != nil {
		return err
	}
	for _, p := range sorted {
		info, err := known.get(p)
		if err != nil {
			return err
		}
		e := exported{path: p, references: info.References, deriver: info.Deriver}
		err = writeExport(out, conn.dir, e, func(w io.Writer) error { return conn.NarFromPath(c.Context, p, w) })
		if err != nil {
			return err
		}
	}
	return writeExportEnd(out)
}

// referencesFirst sorts paths so that each comes after those that it refers to.
func (k *knownInfos) referencesFirst(paths []storepath.Path) ([]storepath.Path, error) {
	wanted := make(map[storepath.Path]bool, len(paths))
	for _, p := range paths {
		wanted[p] = true
	}
	var sorted []storepath.Path
	var visit func(storepath.Path) error
	visit = func(p storepath.Path) error {
		if !wanted[p] {
			return nil
		}
		wanted[p] = false
		info, err := k.get(p)
		if err != nil {
			return err
		}
		for _, ref := range info.References {
			if err := visit(ref); err != nil {
				return err
			}
		}
		sorted = append(sorted, p)
		return nil
	}
	for _, p := range paths {
		if err := visit(p); err != nil {
			return nil, err
		}
	}
	return sorted, nil
}

func exportFiles(c *cli.Context, conn *connection, paths []storepath.Path, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range paths {
		r, w := io.Pipe()
		go func() { w.CloseWithError(conn.NarFromPath(c.Context, p, w)) }()
		target := filepath.Join(dir, p.Base())
		err := nar.Restore(r, target)
		r.Close() // ends the sender if the archive was not read to its end
		if err != nil {
			return fmt.Errorf("export %s: %w", conn.dir.Join(p), err)
		}
		fmt.Fprintln(c.App.Writer, target)
	}
	return nil
}
