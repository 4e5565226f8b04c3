package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// The stream of 'nix-store --export', in the primitives of the worker protocol:
//
//	1, NAR, magic, path, references, deriver or "", 0     for each path, references first
//	0                                                     at the end
const exportMagic = 0x4558494e

// exported is what the stream tells of a path behind its archive.
type exported struct {
	path       storepath.Path
	references []storepath.Path
	deriver    storepath.Path
}

// writeExportEnd ends a stream.
func writeExportEnd(w io.Writer) error {
	out := wp.NewWriter(w)
	out.Uint64(0)
	return out.Flush()
}

// writeExport writes one path; nar writes its archive.
func writeExport(w io.Writer, dir storepath.Dir, e exported, nar func(io.Writer) error) error {
	out := wp.NewWriter(w)
	out.Uint64(1)
	if err := out.Flush(); err != nil {
		return err
	}
	if err := nar(w); err != nil {
		return err
	}
	out.Uint64(exportMagic)
	out.String(dir.Join(e.path))
	references := make([]string, len(e.references))
	for i, ref := range e.references {
		references[i] = dir.Join(ref)
	}
	out.Strings(references)
	out.String(dir.Join(e.deriver))
	out.Uint64(0) // no signature of the old kind
	return out.Flush()
}

// readExport reads a stream. For each path it calls nar with the archive, which must be read to
// its end, and then done with the rest.
func readExport(src *bufio.Reader, dir storepath.Dir, nar func(io.Reader) error, done func(exported) error) error {
	r := wp.NewReader(src, wp.Limits{})
	for {
		switch more := r.Uint64("export stream"); {
		case r.Err() != nil:
			return r.Err()
		case more == 0:
			return nil
		case more != 1:
			return errors.New("input doesn't look like something created by 'nix-store --export'")
		}
		if err := nar(wp.NewNARStream(src)); err != nil {
			return err
		}
		e, err := readExported(r, dir)
		if err != nil {
			return err
		}
		if err := done(e); err != nil {
			return err
		}
	}
}

func readExported(r *wp.Reader, dir storepath.Dir) (e exported, err error) {
	if magic := r.Uint64("export magic"); r.Err() == nil && magic != exportMagic {
		//lint:ignore ST1005 Nix's text
		return e, errors.New("Nix archive cannot be imported; wrong format")
	}
	path, references, deriver := r.String("path"), r.Strings("references"), r.String("deriver")
	if r.Uint64("signature flag") == 1 {
		r.String("signature")
	}
	if r.Err() != nil {
		return e, r.Err()
	}
	if e.path, err = dir.Parse(path); err != nil {
		return e, err
	}
	for _, text := range references {
		ref, err := dir.Parse(text)
		if err != nil {
			return e, err
		}
		e.references = append(e.references, ref)
	}
	if deriver != "" {
		e.deriver, err = dir.Parse(deriver)
	}
	return e, err
}

// spool is an archive in a file that has no name any more: what it holds is told only behind it.
type spool struct {
	file *os.File
	size int64
}

func newSpool(r io.Reader, also io.Writer) (*spool, error) {
	f, err := os.CreateTemp("", "tvixd-import-")
	if err != nil {
		return nil, fmt.Errorf("keep archive: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("keep archive: %w", err)
	}
	s := &spool{file: f}
	if s.size, err = io.Copy(io.MultiWriter(f, also), r); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("keep archive: %w", err)
	}
	return s, nil
}
