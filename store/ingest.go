package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// Ingested is contents that were put into the castore, ready to be registered
// under a path. They are safe from a sweep until Release, which must be called
// in every case, after the registration if there is one. They are not durable
// before Store.Register or a Sync of the castore.
type Ingested struct {
	// Root is the contents.
	Root castore.Node

	// NarHash is the SHA-256 of the NAR of Root, NarSize its length in bytes.
	NarHash nixhash.Hash
	NarSize uint64

	// References are those of the candidates whose hash part occurs in the
	// NAR, sorted.
	References []storepath.Path

	release func()
}

// Release gives the contents up to the next sweep. Further calls do nothing.
func (i *Ingested) Release() {
	if i != nil && i.release != nil {
		i.release()
	}
}

// IngestOptions say what to do besides storing.
type IngestOptions struct {
	// Candidates are the paths that the contents may refer to.
	Candidates []storepath.Path
}

// IngestNAR puts the contents of a NAR into the castore, in one pass and
// bounded memory. If r is a *bufio.Reader, nothing behind the end of the NAR
// is taken from it; otherwise r must be for the one NAR alone.
func (s *Store) IngestNAR(ctx context.Context, r io.Reader, o IngestOptions) (*Ingested, error) {
	return s.ingest(ctx, o, func(in *ingest) error { return in.nar(r) })
}

// ingest runs feed, which delivers the events, between the set-up and the end
// of a pipeline.
func (s *Store) ingest(ctx context.Context, o IngestOptions, feed func(*ingest) error) (*Ingested, error) {
	return s.runIngest(ctx, newIngest(s, o.Candidates), feed)
}

func (s *Store) runIngest(ctx context.Context, in *ingest, feed func(*ingest) error) (*Ingested, error) {
	release := s.castore.Hold()
	in.open(ctx)
	done, err := in.finish(feed(in))
	if err != nil {
		release()
		return nil, err
	}
	done.release = release
	return done, nil
}

// nar feeds the pipeline from a NAR.
func (in *ingest) nar(r io.Reader) error {
	nr := getReader(r)
	defer putReader(nr)
	for {
		h, err := nr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch h.Kind {
		case nar.Directory:
			err = in.enter(h.Name)
		case nar.EndDirectory:
			err = in.leave()
		case nar.Symlink:
			err = in.symlink(h.Name, h.Target)
		case nar.Regular:
			err = in.file(h.Name, h.Executable, h.Size, nr)
		default:
			err = fmt.Errorf("NAR: %s: unexpected %v", nr.Path(), h.Kind)
		}
		if err != nil {
			return err
		}
	}
}

// IngestFlat puts a plain file with the bytes of r, up to their end, into the
// castore. The bytes need not fit into memory.
func (s *Store) IngestFlat(ctx context.Context, r io.Reader, executable bool) (*Ingested, error) {
	return s.ingestFlat(ctx, r, executable, io.Discard)
}

// ingestFlat writes the bytes of r to also, too, which must not fail.
func (s *Store) ingestFlat(ctx context.Context, r io.Reader, executable bool, also io.Writer) (*Ingested, error) {
	r = io.TeeReader(r, also)
	buf := getBuffer(maxSmall)
	defer putBuffer(buf)
	n, err := io.ReadFull(r, buf)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return s.ingestBytes(ctx, buf[:n], executable)
	case err != nil:
		return nil, fmt.Errorf("read contents: %w", err)
	}

	// The size stands before the contents in a NAR, and is not known: store
	// first, and hash what was stored.
	release := s.castore.Hold()
	done, err := s.spoolFlat(ctx, buf, r, executable)
	if err != nil {
		release()
		return nil, err
	}
	done.release = release
	return done, nil
}

func (s *Store) spoolFlat(ctx context.Context, head []byte, r io.Reader, executable bool) (*Ingested, error) {
	w, err := s.castore.Create(ctx)
	if err != nil {
		return nil, fmt.Errorf("store contents: %w", err)
	}
	defer w.Abort()
	if _, err := w.Write(head); err != nil {
		return nil, fmt.Errorf("store contents: %w", err)
	}
	if _, err := io.CopyBuffer(onlyWriter{w}, r, head); err != nil {
		return nil, fmt.Errorf("store contents: %w", err)
	}
	digest, size, err := w.Commit()
	if err != nil {
		return nil, fmt.Errorf("store contents: %w", err)
	}
	node := castore.Node{Kind: castore.KindFile, Digest: digest, Size: size, Executable: executable}
	h, n, err := s.hashNAR(ctx, node)
	if err != nil {
		return nil, err
	}
	return &Ingested{Root: node, NarHash: h, NarSize: n}, nil
}

// onlyWriter hides io.ReaderFrom, so that CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// ingestBytes is IngestFlat for contents in memory, which are not kept.
func (s *Store) ingestBytes(ctx context.Context, contents []byte, executable bool) (*Ingested, error) {
	return s.ingest(ctx, IngestOptions{}, func(in *ingest) error {
		return in.bytes("", executable, contents)
	})
}

// hashNAR renders a node to get the hash and size of its NAR.
func (s *Store) hashNAR(ctx context.Context, node castore.Node) (nixhash.Hash, uint64, error) {
	h := nixhash.SHA256.New()
	var n countingWriter
	if err := s.WriteNAR(ctx, node, io.MultiWriter(h, &n)); err != nil {
		return nixhash.Hash{}, 0, err
	}
	return nixhash.Finish(nixhash.SHA256, h), uint64(n), nil
}

type countingWriter uint64

func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}

// firstError picks the error that explains the others: a pipeline that breaks
// cancels its context, and then everything in it fails with that.
func firstError(errs ...error) error {
	var first error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if !errors.Is(err, context.Canceled) {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}
