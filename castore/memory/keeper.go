package memory

import (
	"context"
	"fmt"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/internal/damage"
)

// Sync implements [castore.Keeper]. There is nothing to do.
func (s *Store) Sync(ctx context.Context) error { return ctx.Err() }

// Hold implements [castore.Keeper].
func (s *Store) Hold() (release func()) { return s.holds.Hold() }

// Stats implements [castore.Keeper].
func (s *Store) Stats(ctx context.Context) (castore.Stats, error) {
	if err := ctx.Err(); err != nil {
		return castore.Stats{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return castore.Stats{
		Objects:       uint64(len(s.objects)),
		ObjectBytes:   s.bytes,
		StoredBytes:   s.bytes,
		UnsyncedBytes: s.bytes,
	}, nil
}

// Verify implements [castore.Keeper].
func (s *Store) Verify(ctx context.Context, report func(castore.Problem)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	digests := make([]castore.Digest, 0, len(s.objects))
	for d := range s.objects {
		digests = append(digests, d)
	}
	s.mu.RUnlock()
	for _, d := range digests {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.mu.RLock()
		data, ok := s.objects[d]
		s.mu.RUnlock()
		if ok && castore.Sum(data) != d {
			report(castore.Problem{Digest: d, Where: "memory", Err: castore.Corrupt("blob", d, nil)})
		}
	}
	return nil
}

// Sweep implements [castore.Keeper].
func (s *Store) Sweep(ctx context.Context, live castore.LiveSet, _ castore.SweepOptions) (castore.SweepResult, error) {
	if err := ctx.Err(); err != nil {
		return castore.SweepResult{}, err
	}
	s.sweepMu.Lock()
	defer s.sweepMu.Unlock()
	// What is held now, or put from here on, may become alive after the roots
	// were read.
	release := s.holds.HoldAll()
	defer release()
	var roots castore.LiveNodes
	for n, err := range live.Roots(ctx) {
		if err != nil {
			return castore.SweepResult{}, fmt.Errorf("sweep: %w", err)
		}
		roots = append(roots, n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return castore.SweepResult{}, castore.ErrClosed
	}
	damaged, err := damage.Find(ctx, source{s}, roots)
	if err != nil {
		return castore.SweepResult{}, fmt.Errorf("sweep: %w", err)
	}
	if len(damaged) > 0 {
		return castore.SweepResult{}, fmt.Errorf("sweep: %w", &castore.DamageError{Objects: damaged})
	}
	for d := range s.holds.Directories() {
		roots = append(roots, castore.Node{Kind: castore.KindDirectory, Digest: d})
	}
	var res castore.SweepResult
	marked := s.mark(roots)
	for d, data := range s.objects {
		if _, ok := marked[d]; ok || s.holds.Held(d) {
			res.Live++
			continue
		}
		delete(s.objects, d)
		res.Dropped++
		res.DroppedBytes += uint64(len(data))
	}
	res.FreedBytes = res.DroppedBytes
	s.bytes -= res.DroppedBytes
	return res, nil
}

// source reads the objects of a store of which the caller holds mu.
type source struct{ *Store }

func (s source) GetDirectory(_ context.Context, d castore.Digest) (*castore.Directory, error) {
	data, ok := s.objects[d]
	dir, err := castore.DecodeDirectory(data)
	if err != nil || !ok && d != castore.EmptyDigest {
		return nil, castore.NotFound("directory", d)
	}
	return dir, nil
}

func (s source) CheckBlob(_ context.Context, d castore.Digest) error {
	if _, ok := s.objects[d]; !ok {
		return castore.NotFound("blob", d)
	}
	return nil
}

// mark returns the names of everything that can be reached. What is held may be
// not there yet. The caller holds mu.
func (s *Store) mark(todo []castore.Node) map[castore.Digest]struct{} {
	marked := make(map[castore.Digest]struct{})
	// Kept apart: a file may have the digest of a directory, and marking the
	// one does not walk the other.
	walked := make(map[castore.Digest]struct{})
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n.Kind == castore.KindSymlink {
			continue
		}
		marked[n.Digest] = struct{}{}
		if _, ok := walked[n.Digest]; ok || n.Kind == castore.KindFile {
			continue
		}
		walked[n.Digest] = struct{}{}
		dir, err := source{s}.GetDirectory(context.Background(), n.Digest)
		if err != nil {
			continue
		}
		for _, e := range dir.Entries {
			todo = append(todo, e.Node)
		}
	}
	return marked
}
