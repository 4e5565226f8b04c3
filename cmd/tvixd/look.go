package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

func lsCommand() *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list a file or folder of the store",
		ArgsUsage: "PATH",
		Description: `Prints the entries of a folder within a store path, or the one file that PATH
is: kind, size and name. Kinds are d for a folder, f for a file, x for an
executable one, l for a symbolic link, whose target is printed as well.`,
		Flags:  []cli.Flag{dataDirFlag(), jsonFlag()},
		Action: withConnection(1, 1, list),
	}
}

func catCommand() *cli.Command {
	return &cli.Command{
		Name:        "cat",
		Usage:       "print a file of the store",
		ArgsUsage:   "PATH",
		Description: `Copies the contents of a file within a store path to standard output.`,
		Flags:       []cli.Flag{dataDirFlag()},
		Action: withConnection(1, 1, func(c *cli.Context, conn *connection) error {
			p, sub, err := conn.storePath(c.Args().First())
			if err != nil {
				return err
			}
			return conn.tree(c.Context, p).cat(sub, c.App.Writer)
		}),
	}
}

func notAFile(full string) error { return fmt.Errorf("path '%s' is not a regular file", full) }

// missing puts what the system says of a path that is not there into Nix's words.
func missing(full string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("path '%s' does not exist", full)
	}
	return err
}

// treeEntry is a file, folder or link within a store path.
type treeEntry struct {
	Name       string `json:"name,omitempty"`
	Type       string `json:"type"` // directory, regular or symlink
	Size       uint64 `json:"size,omitempty"`
	Executable bool   `json:"executable,omitempty"`
	Target     string `json:"target,omitempty"`
}

// tree is the contents of one store path. sub is a path within it that begins with a slash, or
// empty.
type tree interface {
	// list returns the entries of a folder, or the one file that sub is.
	list(sub string) ([]treeEntry, error)
	cat(sub string, w io.Writer) error
}

// tree looks at the contents directly where this process has the store, else through the mount.
func (c *connection) tree(ctx context.Context, p storepath.Path) tree {
	if c.local != nil {
		return &storedTree{ctx, c.local.instance.store, p}
	}
	return mountedTree(c.dir.Join(p))
}

func list(c *cli.Context, conn *connection) error {
	p, sub, err := conn.storePath(c.Args().First())
	if err != nil {
		return err
	}
	entries, err := conn.tree(c.Context, p).list(sub)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(append([]treeEntry{}, entries...))
	}
	for _, e := range entries {
		kind := e.Type[:1]
		switch {
		case e.Type == "symlink":
			kind, e.Name = "l", e.Name+" -> "+e.Target
		case e.Type == "regular" && e.Executable:
			kind = "x"
		case e.Type == "regular":
			kind = "f"
		}
		fmt.Fprintf(c.App.Writer, "%s %12d %s\n", kind, e.Size, e.Name)
	}
	return nil
}

// mountedTree is the folder or file in the mount.
type mountedTree string

func (m mountedTree) list(sub string) ([]treeEntry, error) {
	full := string(m) + sub
	info, err := os.Lstat(full)
	if err != nil {
		return nil, missing(full, err)
	}
	if !info.IsDir() {
		e, err := mountedEntry(full, info)
		return []treeEntry{e}, err
	}
	dir, err := os.ReadDir(full)
	if err != nil {
		return nil, err
	}
	entries := make([]treeEntry, len(dir))
	for i, d := range dir {
		info, err := d.Info()
		if err != nil {
			return nil, err
		}
		if entries[i], err = mountedEntry(filepath.Join(full, d.Name()), info); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func mountedEntry(full string, info os.FileInfo) (e treeEntry, err error) {
	e.Name = info.Name()
	switch {
	case info.IsDir():
		e.Type = "directory"
	case info.Mode()&os.ModeSymlink != 0:
		e.Type = "symlink"
		e.Target, err = os.Readlink(full)
	default:
		e.Type, e.Size, e.Executable = "regular", uint64(info.Size()), info.Mode()&0o100 != 0
	}
	return e, err
}

func (m mountedTree) cat(sub string, w io.Writer) error {
	full := string(m) + sub
	info, err := os.Lstat(full)
	if err != nil {
		return missing(full, err)
	}
	if !info.Mode().IsRegular() {
		return notAFile(full)
	}
	f, err := os.Open(full)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// storedTree is the contents in the castore.
type storedTree struct {
	ctx   context.Context
	store *store.Store
	path  storepath.Path
}

func (t *storedTree) list(sub string) ([]treeEntry, error) {
	node, err := t.store.Lookup(t.ctx, t.path, sub)
	if err != nil {
		return nil, err
	}
	if node.Kind != castore.KindDirectory {
		return []treeEntry{storedEntry(filepath.Base(t.path.Base()+sub), node)}, nil
	}
	dir, err := t.store.Castore().GetDirectory(t.ctx, node.Digest)
	if err != nil {
		return nil, err
	}
	entries := make([]treeEntry, len(dir.Entries))
	for i, e := range dir.Entries {
		entries[i] = storedEntry(e.Name, e.Node)
	}
	return entries, nil
}

func storedEntry(name string, n castore.Node) treeEntry {
	switch n.Kind {
	case castore.KindDirectory:
		return treeEntry{Name: name, Type: "directory"}
	case castore.KindSymlink:
		return treeEntry{Name: name, Type: "symlink", Target: n.Target}
	default:
		return treeEntry{Name: name, Type: "regular", Size: n.Size, Executable: n.Executable}
	}
}

func (t *storedTree) cat(sub string, w io.Writer) error {
	node, err := t.store.Lookup(t.ctx, t.path, sub)
	if err != nil {
		return err
	}
	if node.Kind != castore.KindFile {
		return notAFile(t.store.Dir().Join(t.path) + sub)
	}
	blob, err := t.store.Castore().Open(t.ctx, node.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	_, err = blob.WriteTo(w)
	return err
}
