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
	// renderPiece is the most of a file that is read at once.
	renderPiece = 1 << 20

	// maxReadAhead bounds the contents that one render has in memory.
	maxReadAhead = 4 << 20

	// maxEventsAhead bounds the events that one render is ahead.
	maxEventsAhead = 256
)

// WriteNAR renders a node as a NAR. Contents are read ahead in bounded memory.
// The caller must keep the node from being swept.
func (s *Store) WriteNAR(ctx context.Context, node castore.Node, w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var err error
	if node.Kind != castore.KindDirectory && node.Size <= renderPiece {
		err = s.renderSmall(ctx, node, nar.NewWriter(out))
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

// renderSmall renders a link or a small file.
func (s *Store) renderSmall(ctx context.Context, node castore.Node, w *nar.Writer) error {
	h, err := header("", node)
	if err != nil {
		return err
	}
	if err := w.Header(h); err != nil {
		return err
	}
	if node.Kind == castore.KindFile {
		buf := getBuffer(int(node.Size))
		defer putBuffer(buf)
		if err := s.readBlob(ctx, node, buf); err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return w.Close()
}

// renderEvent is one event of the NAR that is being rendered: a header, or
// contents that a worker is reading.
type renderEvent struct {
	header nar.Header // none if Kind is 0

	piece bool
	node  castore.Node
	blob  *sharedBlob // of a large file; nil for one that is read at once
	off   int64
	n     int
	data  []byte        // from getBuffer; the writer gives it back
	err   error         // why data could not be read
	ready chan struct{} // closed when data and err are set
}

// renderer walks the directories, has the workers read the contents ahead, and
// writes the events in their order.
type renderer struct {
	store  *Store
	ctx    context.Context
	cancel context.CancelCauseFunc
	events chan *renderEvent // in the order of the NAR
	pieces chan *renderEvent // the same, those to be read
	budget *semaphore.Weighted
}

func (s *Store) render(ctx context.Context, node castore.Node, w *nar.Writer) error {
	r := &renderer{
		store:  s,
		events: make(chan *renderEvent, maxEventsAhead),
		pieces: make(chan *renderEvent, maxEventsAhead),
		budget: semaphore.NewWeighted(maxReadAhead),
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	for range s.workers {
		wg.Go(func() {
			for e := range r.pieces {
				r.read(e)
			}
		})
	}
	wg.Go(func() {
		defer close(r.events)
		defer close(r.pieces)
		if err := r.walk("", node, 0); err != nil {
			r.cancel(err)
		}
	})

	err := r.write(w)
	r.cancel(err)
	for e := range r.events { // give back what was read in vain
		if e.piece {
			<-e.ready
			putBuffer(e.data)
		}
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
	if err := r.send(&renderEvent{header: h}); err != nil {
		return err
	}
	switch node.Kind {
	case castore.KindFile:
		return r.file(node)
	case castore.KindSymlink:
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

// file sends the contents of a file, in pieces.
func (r *renderer) file(node castore.Node) error {
	if node.Size == 0 {
		return nil
	}
	var blob *sharedBlob
	if node.Size > renderPiece {
		b, err := r.store.castore.Open(r.ctx, node.Digest)
		if err != nil {
			return err
		}
		blob = newSharedBlob(b)
		defer blob.release()
		if b.Size() != node.Size {
			return castore.Corrupt("blob", node.Digest,
				fmt.Errorf("it has %d bytes, its directory says %d", b.Size(), node.Size))
		}
	}
	for off := uint64(0); off < node.Size; off += renderPiece {
		n := int(min(node.Size-off, renderPiece))
		if err := r.budget.Acquire(r.ctx, int64(n)); err != nil {
			return context.Cause(r.ctx)
		}
		e := &renderEvent{
			piece: true, node: node, blob: blob, off: int64(off), n: n,
			ready: make(chan struct{}),
		}
		if blob != nil {
			blob.acquire()
		}
		// Both channels take the event, or none: a reader that gets an event
		// from one may count on the other.
		if err := r.send(e); err != nil {
			if blob != nil {
				blob.release()
			}
			return err
		}
		r.pieces <- e
	}
	return nil
}

func (r *renderer) send(e *renderEvent) error {
	select {
	case r.events <- e:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// read reads one piece; it runs in a worker.
func (r *renderer) read(e *renderEvent) {
	defer close(e.ready)
	if e.blob != nil {
		defer e.blob.release()
	}
	if r.ctx.Err() != nil {
		e.err = context.Cause(r.ctx)
		return
	}
	e.data = getBuffer(e.n)
	if e.blob == nil {
		e.err = r.store.readBlob(r.ctx, e.node, e.data)
		return
	}
	if n, err := e.blob.ReadAt(e.data, e.off); n < e.n {
		e.err = err
	}
}

// write writes the events; it runs in the caller's goroutine.
func (r *renderer) write(w *nar.Writer) error {
	for {
		var e *renderEvent
		var ok bool
		select {
		case e, ok = <-r.events:
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
		if !ok {
			if r.ctx.Err() != nil {
				return context.Cause(r.ctx)
			}
			return w.Close()
		}
		if !e.piece {
			if err := w.Header(e.header); err != nil {
				return err
			}
			continue
		}
		<-e.ready
		err := e.err
		if err == nil {
			_, err = w.Write(e.data)
		}
		if e.data != nil {
			putBuffer(e.data)
		}
		r.budget.Release(int64(e.n))
		if err != nil {
			return err
		}
	}
}

// sharedBlob closes a blob when its last user releases it.
type sharedBlob struct {
	castore.Blob
	mu    sync.Mutex
	users int // guarded by mu
}

func newSharedBlob(b castore.Blob) *sharedBlob { return &sharedBlob{Blob: b, users: 1} }

func (b *sharedBlob) acquire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users++
}

func (b *sharedBlob) release() {
	b.mu.Lock()
	b.users--
	last := b.users == 0
	b.mu.Unlock()
	if last {
		b.Close()
	}
}
