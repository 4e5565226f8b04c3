package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/semaphore"

	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

const (
	// maxBuffered is the size of the largest NAR that a batch reads into
	// memory, to take the next one from the stream while it is worked on.
	maxBuffered = 1 << 20

	// maxBatchBuffer bounds the bytes of all of them together.
	maxBatchBuffer = 8 << 20

	// A group of paths is registered when it has grown to this.
	groupPaths = 1000
	groupBytes = 256 << 20
)

// Batch adds many paths that come one after another in a stream. Small NARs
// are worked on beside each other, and groups of paths are made durable and
// registered, with one Sync each, while the next ones come in.
//
// A Batch is for one goroutine. It must be ended by Commit or Close.
type Batch struct {
	store *Store
	ctx   context.Context // until Commit or Close
	end   context.CancelFunc

	// AddOptions are for all paths; they may be set before the first one.
	AddOptions

	lease  *Lease
	slots  *semaphore.Weighted // workers
	budget *semaphore.Weighted // bytes in memory

	added    int // paths so far
	flushing int // added, when the flush that is running began
	done     int // see Done

	seen   map[storepath.Path]struct{} // added in this batch
	queue  []*batchItem                // not given to a flush yet
	queued uint64                      // bytes of NARs in queue
	flush  chan error                  // of the flush that is running; nil if none
	failed bool                        // a flush failed: nothing is registered any more
	err    error                       // of a flush or an add; final
}

// batchItem is a path on its way.
type batchItem struct {
	info pathinfo.PathInfo
	in   *Ingested
	err  error
	done chan struct{} // closed when info.Root, in and err are set
}

// Batch begins a batch. The context is for all that happens in it.
func (s *Store) Batch(ctx context.Context) *Batch {
	b := &Batch{
		store:  s,
		lease:  s.NewLease(),
		slots:  semaphore.NewWeighted(int64(s.workers)),
		budget: semaphore.NewWeighted(maxBatchBuffer),
		seen:   make(map[storepath.Path]struct{}),
	}
	b.ctx, b.end = context.WithCancel(ctx)
	return b
}

// AddNAR takes the NAR of info from r, which goes on behind it with the next
// one; IngestNAR says which kind of reader that needs. The stream must end, or
// go on without an answer from this side: a NAR that is shorter than info
// claims may be noticed only after the claimed size was read.
//
// The path is valid and durable when Commit has returned. An error may be that
// of an earlier path, which it names; no more paths can be added then, and
// nothing is said about what was taken from r.
func (b *Batch) AddNAR(ctx context.Context, info pathinfo.PathInfo, r io.Reader) error {
	if b.err != nil {
		return b.err
	}
	b.added++
	if err := b.add(ctx, info, r); err != nil {
		// A stream that is out of step since an earlier path, whose size was
		// not what it claimed, is that path's fault.
		b.err = firstError(b.wait(), b.firstBad(), err)
	}
	return b.err
}

// Done returns of how many of the paths added, from the first on, nothing is
// kept in memory any more.
func (b *Batch) Done() int {
	if b.flush == nil && len(b.queue) == 0 {
		return b.added
	}
	return b.done
}

// firstBad waits for the queue and returns the first error in it.
func (b *Batch) firstBad() error {
	for _, item := range b.queue {
		if <-item.done; item.err != nil {
			return item.err
		}
	}
	return nil
}

func (b *Batch) add(ctx context.Context, info pathinfo.PathInfo, r io.Reader) error {
	info.Normalise()
	b.lease.Add(info.Path)
	skip, err := b.known(ctx, info.Path)
	if err != nil {
		return err
	}
	if skip {
		b.keep(info.Path)
		return skipNAR(r)
	}
	if err := b.store.checkClaim(&info); err != nil {
		return err
	}
	item := &batchItem{info: info, done: make(chan struct{})}
	if info.NarSize <= maxBuffered {
		if err := b.addSmall(ctx, item, r); err != nil {
			return err
		}
	} else {
		item.in, item.err = b.store.IngestNAR(ctx, r, IngestOptions{})
		b.finish(item)
		if item.err != nil {
			return item.err
		}
	}
	b.seen[info.Path] = struct{}{}
	b.queue = append(b.queue, item)
	b.queued += info.NarSize
	if len(b.queue) < groupPaths && b.queued < groupBytes {
		return nil
	}
	if err := b.wait(); err != nil {
		return err
	}
	b.start()
	return nil
}

// known reports whether a path needs no contents.
func (b *Batch) known(ctx context.Context, path storepath.Path) (bool, error) {
	if _, ok := b.seen[path]; ok {
		return true, nil
	}
	if b.Repair {
		return false, nil
	}
	return b.store.isValid(ctx, path)
}

// skipNAR reads over a NAR.
func skipNAR(r io.Reader) error {
	nr := getReader(r)
	defer putReader(nr)
	for {
		if _, err := nr.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// addSmall reads a NAR into memory and leaves the rest to a worker.
func (b *Batch) addSmall(ctx context.Context, item *batchItem, r io.Reader) error {
	size := int64(item.info.NarSize)
	if err := b.budget.Acquire(ctx, size); err != nil {
		return err
	}
	buf := getBuffer(int(size))
	n, err := io.ReadFull(r, buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		putBuffer(buf)
		b.budget.Release(size)
		return fmt.Errorf("error importing path '%s': %w", b.store.dir.Join(item.info.Path), err)
	}
	if err := b.slots.Acquire(ctx, 1); err != nil {
		putBuffer(buf)
		b.budget.Release(size)
		return err
	}
	go func() {
		defer b.budget.Release(size)
		defer b.slots.Release(1)
		defer putBuffer(buf)
		b.work(item, buf[:n])
	}()
	return nil
}

// work adds a NAR that is in memory; it runs in a worker.
func (b *Batch) work(item *batchItem, buf []byte) {
	in := newIngest(b.store, nil)
	in.serial = true
	item.in, item.err = b.store.runIngest(b.ctx, in, func(in *ingest) error {
		return in.nar(bytes.NewReader(buf))
	})
	if errors.Is(item.err, io.ErrUnexpectedEOF) && !errors.Is(item.err, nar.ErrMalformed) {
		// The NAR goes on behind what was claimed to be its end, or there was
		// no more to read.
		got := fmt.Sprintf("more than %d", len(buf))
		if uint64(len(buf)) < item.info.NarSize {
			b.finish(item)
			return
		}
		item.err = b.store.sizeMismatch(&item.info, got)
		close(item.done)
		return
	}
	b.finish(item)
}

// finish checks a path that was taken in.
func (b *Batch) finish(item *batchItem) {
	defer close(item.done)
	if item.err != nil {
		item.err = fmt.Errorf("error importing path '%s': %w", b.store.dir.Join(item.info.Path), item.err)
		return
	}
	item.err = b.store.checkIngested(b.ctx, &item.info, item.in)
	item.info.Root = item.in.Root
}

// start registers the queue in the background.
func (b *Batch) start() {
	items := b.queue
	b.queue, b.queued = nil, 0
	b.flushing = b.added
	b.flush = make(chan error, 1)
	go func() { b.flush <- b.register(items) }()
}

// wait waits for the flush that is running, if any.
func (b *Batch) wait() error {
	if b.flush == nil {
		return nil
	}
	err := <-b.flush
	b.flush = nil
	b.done = b.flushing
	b.failed = b.failed || err != nil
	return err
}

// register registers items up to the first that failed, whose error it returns.
func (b *Batch) register(items []*batchItem) error {
	defer func() {
		for _, item := range items {
			<-item.done
			item.in.Release()
		}
	}()
	var bad error
	infos := make([]pathinfo.PathInfo, 0, len(items))
	for _, item := range items {
		<-item.done
		if item.err != nil {
			bad = item.err
			break
		}
		infos = append(infos, item.info)
	}
	commit := b.store.Register
	if b.Repair {
		commit = b.store.Replace
	}
	if err := commit(b.ctx, infos); err != nil {
		return firstError(err, bad)
	}
	for _, info := range infos {
		b.keep(info.Path)
	}
	return bad
}

// keep hands a path over that is valid, or will be when the batch succeeds.
func (b *Batch) keep(path storepath.Path) {
	if b.Keep != nil {
		b.Keep.Add(path)
	}
}

// Commit waits until all paths are valid and durable and ends the batch. If it
// fails, the paths that came before the one that the error names may be valid.
func (b *Batch) Commit() error {
	defer b.Close()
	err := b.wait()
	if !b.failed {
		items := b.queue
		b.queue = nil
		err = b.register(items)
	}
	// What AddNAR has returned comes first: it may be why the rest failed.
	b.err = firstError(b.err, err)
	return b.err
}

// Close ends the batch and drops what was not registered yet. After Commit it
// does nothing.
func (b *Batch) Close() {
	b.end()
	b.wait()
	for _, item := range b.queue {
		<-item.done
		item.in.Release()
	}
	b.queue = nil
	b.lease.Release()
	if b.err == nil {
		b.err = errBatchClosed
	}
}

var errBatchClosed = errors.New("add to a batch that has ended")
