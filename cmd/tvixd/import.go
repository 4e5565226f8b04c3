package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "add files, archives and exports to the store",
		ArgsUsage: "FILE…",
		Description: `Adds each FILE and prints the store paths that were added. '-' is standard
input. By default it is found out what a FILE is:

an export   what 'nix-store --export' or 'tvixd export' wrote: every path in it
            is added under its own name. Only a trusted user may add paths that
            are neither content-addressed nor signed.
an archive  a NAR: its contents are added, under the name that --name gives
a folder, or any other file: a copy of it is added`,
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.StringFlag{Name: "name", Usage: "the `NAME` in the store path", DefaultText: "that of FILE"},
			&cli.BoolFlag{Name: "raw", Usage: "add a file as it is, whatever it looks like"},
		},
		Action: withConnection(1, anyNumber, func(c *cli.Context, conn *connection) error {
			for _, name := range c.Args().Slice() {
				if err := importOne(c, conn, name); err != nil {
					return fmt.Errorf("import %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}

func importOne(c *cli.Context, conn *connection, name string) error {
	i := &importer{c: c, conn: conn, name: c.String("name")}
	if i.name == "" {
		i.name = filepath.Base(name)
	}
	file := os.Stdin
	if name != "-" {
		info, err := os.Lstat(name)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return i.tree(name)
		}
		if file, err = os.Open(name); err != nil {
			return err
		}
		defer file.Close()
		if info.Mode()&0o100 != 0 {
			return i.tree(name) // a flat addition would lose the bit
		}
	}
	src := bufio.NewReaderSize(file, 64<<10)
	switch head, _ := src.Peek(32); {
	case !c.Bool("raw") && len(head) >= 8 && binary.LittleEndian.Uint64(head) == 1 && bytes.HasPrefix(head[8:], narHead):
		return i.export(src)
	case name == "-" && c.String("name") == "":
		return errors.New("what comes from standard input needs a name: --name")
	case !c.Bool("raw") && bytes.HasPrefix(head, narHead):
		return i.add(storepath.NAR, src)
	default:
		return i.add(storepath.Flat, src)
	}
}

// narHead is how every archive begins.
var narHead = []byte("\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1")

type importer struct {
	c    *cli.Context
	conn *connection
	name string
}

func (i *importer) add(method storepath.Method, r io.Reader) error {
	request := wp.AddToStoreRequest{Name: i.name, Method: method, Algo: nixhash.SHA256}
	info, err := i.conn.AddToStore(i.c.Context, request, r)
	if err != nil {
		return err
	}
	return i.print(info.Path)
}

func (i *importer) print(p storepath.Path) error {
	_, err := fmt.Fprintln(i.c.App.Writer, i.conn.dir.Join(p))
	return err
}

// tree adds what lies at a path of this machine.
func (i *importer) tree(path string) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(nar.DumpPath(w, path)) }()
	defer r.Close() // ends the dump if it is not read to its end
	return i.add(storepath.NAR, r)
}

// export adds the paths of an export stream. What a path is called stands behind its archive, and
// the daemon wants it before, so archives are kept in a file meanwhile.
func (i *importer) export(src *bufio.Reader) error {
	var archive *spool
	hash := nixhash.SHA256.New()
	keep := func(r io.Reader) (err error) {
		hash.Reset()
		archive, err = newSpool(r, hash)
		return err
	}
	return readExport(src, i.conn.dir, keep, func(e exported) error {
		defer archive.file.Close()
		request := wp.AddToStoreNarRequest{DontCheckSigs: true, Info: wp.ValidPathInfo{
			Path: e.path,
			PathInfo: wp.PathInfo{
				Deriver:    e.deriver,
				References: e.references,
				NarHash:    nixhash.Finish(nixhash.SHA256, hash),
				NarSize:    uint64(archive.size),
			},
		}}
		if err := i.conn.AddToStoreNar(i.c.Context, request, archive.file); err != nil {
			return err
		}
		return i.print(e.path)
	})
}
