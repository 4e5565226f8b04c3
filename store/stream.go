package store

import (
	"context"
	"fmt"
	"io"

	"github.com/tvixd/tvixd/castore"
)

// largeFile adds a file that does not fit into the budget: it is read piece by
// piece, and stored by a goroutine of its own.
func (in *ingest) largeFile(name string, node castore.Node, r io.Reader) error {
	if in.jobs == nil {
		return in.largeFileSerially(name, node, r)
	}
	if err := in.streams.Acquire(in.ctx, 1); err != nil {
		return context.Cause(in.ctx)
	}
	pieces := make(chan []byte, 4)
	defer close(pieces)
	dir, slot := in.dir, in.dir.add(name, node, true)
	in.wg.Go(func() {
		defer in.streams.Release(1)
		in.stream(pieces, dir, slot, node)
	})
	for left := node.Size; left > 0; {
		n := int(min(left, pieceSize))
		if err := in.budget.Acquire(in.ctx, int64(n)); err != nil {
			return context.Cause(in.ctx)
		}
		buf := getBuffer(n)
		if err := in.read(buf, r); err != nil {
			putBuffer(buf)
			return err
		}
		select {
		case pieces <- buf:
		case <-in.ctx.Done():
			putBuffer(buf)
			return context.Cause(in.ctx)
		}
		left -= uint64(n)
	}
	return nil
}

// stream stores a large file from its pieces. It takes all pieces, whatever
// happens, so that the feeder gets its budget back.
func (in *ingest) stream(pieces <-chan []byte, dir *openDir, slot int, node castore.Node) {
	w, err := in.store.castore.Create(in.ctx)
	if err == nil {
		defer w.Abort()
	}
	var size uint64
	for p := range pieces {
		size += uint64(len(p))
		if err == nil {
			_, err = w.Write(p)
		}
		putBuffer(p)
		in.budget.Release(int64(len(p)))
		if err != nil {
			in.cancel(fmt.Errorf("store contents: %w", err))
		}
	}
	if err == nil && size != node.Size {
		return // the feeder failed, and says why
	}
	if err == nil {
		node.Digest, _, err = w.Commit()
	}
	if err != nil {
		in.cancel(fmt.Errorf("store contents: %w", err))
		return
	}
	in.settle(dir, slot, node)
}

func (in *ingest) largeFileSerially(name string, node castore.Node, r io.Reader) error {
	w, err := in.store.castore.Create(in.ctx)
	if err != nil {
		return fmt.Errorf("store contents: %w", err)
	}
	defer w.Abort()
	buf := getBuffer(pieceSize)
	defer putBuffer(buf)
	for left := node.Size; left > 0; {
		piece := buf[:min(left, pieceSize)]
		if err := in.read(piece, r); err != nil {
			return err
		}
		if _, err := w.Write(piece); err != nil {
			return fmt.Errorf("store contents: %w", err)
		}
		left -= uint64(len(piece))
	}
	if node.Digest, _, err = w.Commit(); err != nil {
		return fmt.Errorf("store contents: %w", err)
	}
	if in.dir == nil {
		in.root = node
	} else {
		in.dir.add(name, node, false)
	}
	return nil
}
