package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func pathInfoCommand() *cli.Command {
	return &cli.Command{
		Name:      "path-info",
		Usage:     "print what is known of paths",
		ArgsUsage: "PATH…",
		Description: `Prints the metadata of valid store paths, in the form of a binary cache's
narinfo files. A PATH may be a link that leads to a store path. A path that is
not valid is an error.`,
		Flags: []cli.Flag{
			dataDirFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "all", Usage: "every valid path"},
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: "also what the PATHs refer to, and so on"},
			&cli.BoolFlag{Name: "closure-size", Aliases: []string{"S"}, Usage: "with the sum of the sizes of a path and all that it needs"},
		},
		Action: withConnection(0, anyNumber, printPathInfo),
	}
}

// knownInfos asks for each path's metadata once.
type knownInfos struct {
	c     *cli.Context
	conn  *connection
	infos map[storepath.Path]*wp.PathInfo
}

func (k *knownInfos) get(p storepath.Path) (*wp.PathInfo, error) {
	if info, ok := k.infos[p]; ok {
		return info, nil
	}
	info, err := k.conn.QueryPathInfo(k.c.Context, p)
	if err == nil && info == nil {
		err = fmt.Errorf("path '%s' is not valid", k.conn.dir.Join(p))
	}
	if err != nil {
		return nil, err
	}
	k.infos[p] = info
	return info, nil
}

// closure lists paths and all that they need, sorted, and the sum of their sizes.
func (k *knownInfos) closure(paths ...storepath.Path) (all []storepath.Path, size uint64, err error) {
	seen := map[storepath.Path]bool{}
	for todo := append([]storepath.Path(nil), paths...); len(todo) > 0; {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		info, err := k.get(p)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, p)
		size += info.NarSize
		todo = append(todo, info.References...)
	}
	storepath.Sort(all)
	return all, size, nil
}

func printPathInfo(c *cli.Context, conn *connection) error {
	paths, err := conn.storePaths(c.Args().Slice())
	switch {
	case err != nil:
		return err
	case c.Bool("all"):
		if paths, err = conn.QueryAllValidPaths(c.Context); err != nil {
			return err
		}
	case len(paths) == 0:
		return statusError{fmt.Errorf("'tvixd path-info' needs a PATH or --all"), 2}
	}
	known := &knownInfos{c: c, conn: conn, infos: map[storepath.Path]*wp.PathInfo{}}
	if c.Bool("recursive") {
		if paths, _, err = known.closure(paths...); err != nil {
			return err
		}
	}
	described := make([]pathDescription, len(paths))
	for i, p := range paths {
		if described[i], err = known.describe(p, c.Bool("closure-size")); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(described)
	}
	for i := range described {
		if i > 0 {
			fmt.Fprintln(c.App.Writer)
		}
		described[i].print(c.App.Writer)
	}
	return nil
}

type pathDescription struct {
	Path             string   `json:"path"`
	NarHash          string   `json:"narHash"`
	NarSize          uint64   `json:"narSize"`
	ClosureSize      uint64   `json:"closureSize,omitempty"`
	References       []string `json:"references"`
	Deriver          string   `json:"deriver,omitempty"`
	CA               string   `json:"ca,omitempty"`
	Signatures       []string `json:"signatures"`
	RegistrationTime int64    `json:"registrationTime"`
	Ultimate         bool     `json:"ultimate"`
}

func (k *knownInfos) describe(p storepath.Path, withClosure bool) (pathDescription, error) {
	info, err := k.get(p)
	if err != nil {
		return pathDescription{}, err
	}
	d := pathDescription{
		Path:             k.conn.dir.Join(p),
		NarHash:          info.NarHash.String(),
		NarSize:          info.NarSize,
		References:       make([]string, len(info.References)),
		Deriver:          k.conn.dir.Join(info.Deriver),
		CA:               info.CA.String(),
		Signatures:       append([]string{}, info.Signatures...),
		RegistrationTime: info.RegistrationTime.Unix(),
		Ultimate:         info.Ultimate,
	}
	for i, ref := range info.References {
		d.References[i] = k.conn.dir.Join(ref)
	}
	if withClosure {
		_, d.ClosureSize, err = k.closure(p)
	}
	return d, err
}

func (d *pathDescription) print(w io.Writer) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s: %s\n", name, value)
		}
	}
	line("StorePath", d.Path)
	line("NarHash", d.NarHash)
	line("NarSize", fmt.Sprint(d.NarSize))
	if d.ClosureSize > 0 {
		line("ClosureSize", fmt.Sprint(d.ClosureSize))
	}
	line("References", strings.Join(d.References, " "))
	line("Deriver", d.Deriver)
	for _, sig := range d.Signatures {
		line("Sig", sig)
	}
	line("CA", d.CA)
}
