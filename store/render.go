package store

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/storepath"
)

const (
	// maxAhead is the size of the largest file that is read ahead as a whole.
	// Larger ones are streamed by the castore.
	maxAhead = 1 << 20

	// maxReadAhead bounds the contents that one render has in memory.
	maxReadAhead = 4 << 20

	// maxEventsAhead bounds the events that one render is ahead.
	maxEventsAhead = 256
)

// WriteNAR renders a node as a NAR. Contents are read ahead in bounded memory.
// The caller must keep the node from being swept.
func (s *Store) WriteNAR(ctx context.Context, node castore.Node, w io.Writer) error {
	out := bufio.NewWriterSize(contextWriter{ctx, w}, 64<<10)
	var err error
	if node.Kind != castore.KindDirectory {
		err = s.renderOne(ctx, node, nar.NewWriter(out))
	} else {
		err = s.render(ctx, node, nar.NewWriter(out))
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

// NARFromPath renders a valid path as a NAR; the error wraps
// pathinfo.ErrNotFound if it is not valid. The path is leased meanwhile.
func (s *Store) NARFromPath(ctx context.Context, path storepath.Path, w io.Writer) error {
	lease := s.NewLease()
	defer lease.Release()
	lease.Add(path)
	root, err := s.Root(ctx, path)
	if err != nil {
		return err
	}
	if err := s.WriteNAR(ctx, root, w); err != nil {
		return fmt.Errorf("render '%s': %w", s.dir.Join(path), err)
	}
	return nil
}

// header is the NAR event of a node.
func header(name string, n castore.Node) (nar.Header, error) {
	h := nar.Header{Name: name, Size: n.Size, Executable: n.Executable, Target: n.Target}
	switch n.Kind {
	case castore.KindDirectory:
		h.Kind, h.Size = nar.Directory, 0
	case castore.KindFile:
		h.Kind = nar.Regular
	case castore.KindSymlink:
		h.Kind = nar.Symlink
	default:
		return h, fmt.Errorf("render %q: unknown kind of node", name)
	}
	return h, nil
}

// renderOne renders a link or a file.
func (s *Store) renderOne(ctx context.Context, node castore.Node, w *nar.Writer) error {
	h, err := header("", node)
	if err != nil {
		return err
	}
	if err := w.Header(h); err != nil {
		return err
	}
	if node.Kind == castore.KindFile {
		if err := s.writeBlob(ctx, node, w); err != nil {
			return err
		}
	}
	return w.Close()
}

// renderEvent is one event of the NAR that is being rendered: a header, or a
// file with its contents.
type renderEvent struct {
	header nar.Header

	// node is the file; zero for other events and for an empty one.
	node castore.Node

	// Of a small file, which a worker reads.
	ready chan struct{} // closed when data and err are set; nil for a large one
	data  []byte        // from getBuffer; the writer gives it back
	err   error         // why data could not be read
}

// renderer walks the directories, has the workers read the contents ahead, and
// writes the events in their order.
type renderer struct {
	store  *Store
	ctx    context.Context
	cancel context.CancelCauseFunc
	events chan *renderEvent // in the order of the NAR
	files  chan *renderEvent // the same, those to be read
	budget *semaphore.Weighted
}

func (s *Store) render(ctx context.Context, node castore.Node, w *nar.Writer) error {
	r := &renderer{
		store:  s,
		events: make(chan *renderEvent, maxEventsAhead),
		files:  make(chan *renderEvent, maxEventsAhead),
		budget: semaphore.NewWeighted(maxReadAhead),
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	for range s.workers {
		wg.Go(func() {
			for e := range r.files {
				r.read(e)
			}
		})
	}
	wg.Go(func() {
		defer close(r.events)
		defer close(r.files)
		if err := r.walk("", node, 0); err != nil {
			r.cancel(err)
		}
	})

	err := r.write(w)
	r.cancel(err)
	for e := range r.events { // give back what was read in vain
		r.drop(e)
	}
	wg.Wait()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return firstError(err, context.Cause(r.ctx))
}

// walk sends the events of a node. The recursion is as deep as the tree, which
// is bounded when it is taken in, and here for a castore that is not ours alone.
func (r *renderer) walk(name string, node castore.Node, depth int) error {
	if depth >= nar.MaxDepth {
		return fmt.Errorf("render %q: directories are nested deeper than %d", name, nar.MaxDepth)
	}
	h, err := header(name, node)
	if err != nil {
		return err
	}
	if node.Kind == castore.KindFile && node.Size > 0 {
		return r.file(h, node)
	}
	if err := r.send(&renderEvent{header: h}); err != nil {
		return err
	}
	if node.Kind != castore.KindDirectory {
		return nil
	}
	dir, err := r.store.castore.GetDirectory(r.ctx, node.Digest)
	if err != nil {
		return err
	}
	for _, e := range dir.Entries {
		if err := r.walk(e.Name, e.Node, depth+1); err != nil {
			return err
		}
	}
	return r.send(&renderEvent{header: nar.Header{Kind: nar.EndDirectory}})
}

// file sends a file that is not empty.
func (r *renderer) file(h nar.Header, node castore.Node) error {
	if node.Size > maxAhead {
		return r.send(&renderEvent{header: h, node: node})
	}
	if err := r.budget.Acquire(r.ctx, int64(node.Size)); err != nil {
		return context.Cause(r.ctx)
	}
	e := &renderEvent{header: h, node: node, ready: make(chan struct{})}
	if err := r.send(e); err != nil {
		return err
	}
	// Whoever got the event waits until it was read, so this must not fail.
	// It does not wait for long: the workers take all that comes.
	r.files <- e
	return nil
}

// checkSize compares a file's size in its directory with that of its blob.
func checkSize(node castore.Node, size uint64) error {
	if size == node.Size {
		return nil
	}
	return castore.Corrupt("blob", node.Digest,
		fmt.Errorf("it has %d bytes, its directory says %d", size, node.Size))
}

func (r *renderer) send(e *renderEvent) error {
	select {
	case r.events <- e:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// read reads a small file; it runs in a worker.
func (r *renderer) read(e *renderEvent) {
	defer close(e.ready)
	if r.ctx.Err() != nil {
		e.err = context.Cause(r.ctx)
		return
	}
	e.data = getBuffer(int(e.node.Size))
	e.err = r.store.readBlob(r.ctx, e.node, e.data)
}

// drop gives back what an event holds.
func (r *renderer) drop(e *renderEvent) {
	if e.ready != nil {
		<-e.ready
		putBuffer(e.data)
		r.budget.Release(int64(e.node.Size))
	}
}

// write writes the events; it runs in the caller's goroutine.
func (r *renderer) write(w *nar.Writer) error {
	for {
		select {
		case e, ok := <-r.events:
			if ok {
				if err := r.writeEvent(w, e); err != nil {
					return err
				}
				continue
			}
			if r.ctx.Err() != nil { // the walk has failed
				return context.Cause(r.ctx)
			}
			return w.Close()
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
	}
}

func (r *renderer) writeEvent(w *nar.Writer, e *renderEvent) error {
	defer r.drop(e)
	if err := w.Header(e.header); err != nil {
		return err
	}
	switch {
	case e.node.IsZero():
		return nil
	case e.ready == nil:
		return r.store.writeBlob(r.ctx, e.node, w)
	}
	if <-e.ready; e.err != nil {
		return e.err
	}
	_, err := w.Write(e.data)
	return err
}

// contextWriter fails when its context has ended. Castores stream blobs
// without looking at one.
type contextWriter struct {
	ctx context.Context
	io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Writer.Write(p)
}
