package store

import (
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
	// maxSmall is the size of the largest file that is stored in one call.
	// Larger ones are streamed in pieces of pieceSize.
	maxSmall  = 1 << 20
	pieceSize = 256 << 10

	// maxInFlight bounds the contents that one add has in memory.
	maxInFlight = 4 << 20

	// maxStreams bounds the large files of one add that are being stored at
	// the same time: the next one begins while the last one is completed.
	maxStreams = 2

	// asyncFrom is the number of bytes from which on an add is worth its
	// goroutines.
	asyncFrom = 128 << 10
)

// ingest is the pipeline of one add. Its methods are called by one goroutine,
// the feeder, in the order of a NAR.
type ingest struct {
	store  *Store
	serial bool // never start goroutines
	parent context.Context
	ctx    context.Context // ends when the pipeline breaks; the cause is the error
	cancel context.CancelCauseFunc

	hash   narHasher
	writer *nar.Writer // to hash
	dir    *openDir    // the innermost directory
	root   castore.Node

	wg      sync.WaitGroup
	jobs    chan blobJob        // nil until the workers run
	budget  *semaphore.Weighted // bytes of contents in flight
	streams *semaphore.Weighted
}

// blobJob is a small file on its way to a worker.
type blobJob struct {
	data []byte // from getBuffer; the worker gives it back
	node castore.Node
	dir  *openDir
	slot int
}

func newIngest(s *Store, candidates []storepath.Path) *ingest {
	in := &ingest{store: s}
	in.hash.init(candidates)
	in.writer = nar.NewWriter(&in.hash)
	return in
}

func (in *ingest) open(ctx context.Context) {
	in.parent = ctx
	in.ctx, in.cancel = context.WithCancelCause(ctx)
}

// start makes the pipeline concurrent.
func (in *ingest) start() {
	in.budget = semaphore.NewWeighted(maxInFlight)
	in.streams = semaphore.NewWeighted(maxStreams)
	in.jobs = make(chan blobJob, 64*in.store.workers)
	for range in.store.workers {
		in.wg.Go(func() {
			for j := range in.jobs {
				in.work(j)
			}
		})
	}
	in.hash.start()
}

// finish ends the pipeline after the feeder ended with err.
func (in *ingest) finish(err error) (*Ingested, error) {
	if err == nil {
		err = in.writer.Close()
	}
	if err != nil {
		in.cancel(err)
	}
	if in.jobs != nil {
		close(in.jobs)
	}
	in.wg.Wait()
	sum, size, refs := in.hash.finish()
	broken := context.Cause(in.ctx)
	in.cancel(nil)
	if in.parent.Err() != nil {
		return nil, context.Cause(in.parent)
	}
	if err := firstError(err, broken); err != nil {
		return nil, err
	}
	return &Ingested{Root: in.root, NarHash: sum, NarSize: size, References: refs}, nil
}

// enter begins a directory.
func (in *ingest) enter(name string) error {
	if err := in.writer.Header(nar.Header{Name: name, Kind: nar.Directory}); err != nil {
		return err
	}
	d := &openDir{parent: in.dir, pending: 1}
	d.slot = in.dir.add(name, castore.Node{Kind: castore.KindDirectory}, true)
	in.dir = d
	return nil
}

// leave ends the innermost directory.
func (in *ingest) leave() error {
	if err := in.writer.Header(nar.Header{Kind: nar.EndDirectory}); err != nil {
		return err
	}
	d := in.dir
	in.dir = d.parent
	return in.close(d)
}

func (in *ingest) symlink(name, target string) error {
	if err := in.writer.Header(nar.Header{Name: name, Kind: nar.Symlink, Target: target}); err != nil {
		return err
	}
	node := castore.Node{Kind: castore.KindSymlink, Target: target}
	if in.dir == nil {
		in.root = node
		return nil
	}
	in.dir.add(name, node, false)
	return nil
}

// file adds a file of size bytes, which r must have.
func (in *ingest) file(name string, executable bool, size uint64, r io.Reader) error {
	if !in.serial && in.jobs == nil && in.hash.size()+size > asyncFrom {
		in.start()
	}
	h := nar.Header{Name: name, Kind: nar.Regular, Executable: executable, Size: size}
	if err := in.writer.Header(h); err != nil {
		return err
	}
	node := castore.Node{Kind: castore.KindFile, Size: size, Executable: executable}
	if size > maxSmall {
		return in.largeFile(name, node, r)
	}
	if in.jobs == nil {
		buf := getBuffer(int(size))
		defer putBuffer(buf)
		return in.smallFile(name, node, buf, r)
	}
	if err := in.budget.Acquire(in.ctx, int64(size)); err != nil {
		return context.Cause(in.ctx)
	}
	buf := getBuffer(int(size))
	if err := in.read(buf, r); err != nil {
		putBuffer(buf)
		return err
	}
	slot := in.dir.add(name, node, true)
	select {
	case in.jobs <- blobJob{data: buf, node: node, dir: in.dir, slot: slot}:
		return nil
	case <-in.ctx.Done():
		putBuffer(buf)
		return context.Cause(in.ctx)
	}
}

// bytes adds a file whose contents are in memory.
func (in *ingest) bytes(name string, executable bool, contents []byte) error {
	h := nar.Header{Name: name, Kind: nar.Regular, Executable: executable, Size: uint64(len(contents))}
	if err := in.writer.Header(h); err != nil {
		return err
	}
	if _, err := in.writer.Write(contents); err != nil {
		return err
	}
	node := castore.Node{Kind: castore.KindFile, Size: h.Size, Executable: executable}
	return in.put(name, node, contents)
}

// smallFile adds a file within the feeder's goroutine.
func (in *ingest) smallFile(name string, node castore.Node, buf []byte, r io.Reader) error {
	if err := in.ctx.Err(); err != nil {
		return context.Cause(in.ctx)
	}
	if err := in.read(buf, r); err != nil {
		return err
	}
	return in.put(name, node, buf)
}

func (in *ingest) put(name string, node castore.Node, contents []byte) error {
	digest, err := in.store.castore.PutBlob(in.ctx, contents)
	if err != nil {
		return fmt.Errorf("store contents: %w", err)
	}
	node.Digest = digest
	if in.dir == nil {
		in.root = node
		return nil
	}
	in.dir.add(name, node, false)
	return nil
}

// read fills buf from r and copies it to the NAR.
func (in *ingest) read(buf []byte, r io.Reader) error {
	if _, err := io.ReadFull(r, buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	_, err := in.writer.Write(buf)
	return err
}

// work stores a small file; it runs in a worker.
func (in *ingest) work(j blobJob) {
	defer in.budget.Release(int64(len(j.data)))
	defer putBuffer(j.data)
	if in.ctx.Err() != nil {
		return
	}
	digest, err := in.store.castore.PutBlob(in.ctx, j.data)
	if err != nil {
		in.cancel(fmt.Errorf("store contents: %w", err))
		return
	}
	j.node.Digest = digest
	in.settle(j.dir, j.slot, j.node)
}

// settle notes the contents of an entry, or of the root if dir is nil, from
// outside of the feeder's goroutine.
func (in *ingest) settle(dir *openDir, slot int, node castore.Node) {
	if dir == nil {
		in.root = node // finish waits for the workers before it reads this
		return
	}
	if !dir.settle(slot, node) {
		return
	}
	if err := in.putUp(dir); err != nil {
		in.cancel(err)
	}
}
