package store

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// VerifyOptions say how thorough VerifyAll is.
type VerifyOptions struct {
	// CheckContents reads everything: each block of the castore is checked,
	// and the NAR of each path is hashed. Otherwise only that all directories
	// and blobs are there.
	CheckContents bool

	// Repair, if not nil, is called for each damaged path, after it was
	// reported. An error is logged, and counted as not repaired.
	Repair func(ctx context.Context, path storepath.Path) error
}

// Problem is something that VerifyAll has found.
type Problem struct {
	// Path is the damaged path; zero for damage that hurts no valid path.
	Path storepath.Path

	// Err says what is wrong; it wraps the cause. Its text is for the user.
	Err error

	// Repaired is true if VerifyOptions.Repair has mended the path. The
	// problem is reported a second time then.
	Repaired bool
}

// VerifyAll checks all valid paths and reports what is damaged, one call at a
// time. Paths that become valid meanwhile may be left out. The error is one
// that has stopped it.
func (s *Store) VerifyAll(ctx context.Context, o VerifyOptions, report func(Problem)) error {
	v := &verifier{
		store:  s,
		opts:   o,
		report: report,
		whole:  make(map[castore.Digest]struct{}),
		broken: make(map[castore.Digest]error),
		bad:    make(map[castore.Digest]castore.Problem),
		hit:    make(map[castore.Digest]struct{}),
	}
	if o.CheckContents {
		err := s.castore.Verify(ctx, func(p castore.Problem) {
			v.bad[p.Digest] = p
		})
		if err != nil {
			return fmt.Errorf("verify contents: %w", err)
		}
	}
	if err := v.paths(ctx); err != nil {
		return err
	}
	v.reportUnused()
	return nil
}

type verifier struct {
	store *Store
	opts  VerifyOptions

	// Directories that were looked at: those that are whole with all below
	// them, and the others.
	whole  map[castore.Digest]struct{}
	broken map[castore.Digest]error

	bad map[castore.Digest]castore.Problem // found by the castore
	hit map[castore.Digest]struct{}        // those of bad that hurt a path

	mu     sync.Mutex
	report func(Problem) // called under mu
}

// paths checks the valid paths one by one.
func (v *verifier) paths(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(v.store.workers)
	err := func() error {
		for info, err := range v.store.infos.All(gctx) {
			if err != nil {
				return err
			}
			if err := v.node(gctx, info.Root); err != nil {
				if gctx.Err() != nil {
					return context.Cause(gctx)
				}
				v.problem(gctx, info.Path, fmt.Errorf("path '%s' is damaged: %w", v.store.dir.Join(info.Path), err))
				continue
			}
			if v.opts.CheckContents {
				group.Go(func() error { return v.contents(gctx, info) })
			}
		}
		return nil
	}()
	return firstError(err, group.Wait())
}

// contents compares the NAR hash of a path.
func (v *verifier) contents(ctx context.Context, info *pathinfo.PathInfo) error {
	full := v.store.dir.Join(info.Path)
	hash, size, err := v.store.hashNAR(ctx, info.Root)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		v.problem(ctx, info.Path, fmt.Errorf("path '%s' is damaged: %w", full, err))
	case hash != info.NarHash:
		v.problem(ctx, info.Path, v.store.errorf(ErrMismatch, "path '%s' was modified! expected hash '%s', got '%s'",
			full, info.NarHash, hash))
	case size != info.NarSize:
		v.problem(ctx, info.Path, v.store.errorf(ErrMismatch, "path '%s' was modified! expected size %d, got %d",
			full, info.NarSize, size))
	}
	return nil
}

// problem reports a damaged path and has it repaired.
func (v *verifier) problem(ctx context.Context, path storepath.Path, err error) {
	// A path that was collected meanwhile is no problem.
	if valid, verr := v.store.isValid(ctx, path); verr == nil && !valid {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report(Problem{Path: path, Err: err})
	if v.opts.Repair == nil {
		return
	}
	if rerr := v.opts.Repair(ctx, path); rerr != nil {
		v.store.logger.Warn("cannot repair path", "path", v.store.dir.Join(path), "err", rerr)
		return
	}
	v.report(Problem{Path: path, Err: err, Repaired: true})
}

// node checks that all is there that a node refers to. Each directory and
// each blob is looked at once, however many paths share it.
func (v *verifier) node(ctx context.Context, n castore.Node) error {
	switch n.Kind {
	case castore.KindDirectory:
		return v.directory(ctx, n.Digest)
	case castore.KindFile:
		return v.files(ctx, []castore.Digest{n.Digest})
	}
	return nil
}

func (v *verifier) directory(ctx context.Context, d castore.Digest) error {
	if _, ok := v.whole[d]; ok {
		return nil
	}
	if err, ok := v.broken[d]; ok {
		return err
	}
	err := v.checkDirectory(ctx, d)
	switch {
	case err == nil:
		v.whole[d] = struct{}{}
	case ctx.Err() == nil:
		v.broken[d] = err
	}
	return err
}

func (v *verifier) checkDirectory(ctx context.Context, d castore.Digest) error {
	if p, ok := v.bad[d]; ok {
		v.hit[d] = struct{}{}
		return p.Err
	}
	dir, err := v.store.castore.GetDirectory(ctx, d)
	if err != nil {
		return err
	}
	var files []castore.Digest
	var first error
	for _, e := range dir.Entries {
		switch e.Node.Kind {
		case castore.KindDirectory:
			if err := v.directory(ctx, e.Node.Digest); err != nil && first == nil {
				first = fmt.Errorf("%q: %w", e.Name, err)
			}
		case castore.KindFile:
			files = append(files, e.Node.Digest)
		}
	}
	if err := v.files(ctx, files); err != nil {
		return err
	}
	return first
}

// files checks that blobs are there.
func (v *verifier) files(ctx context.Context, digests []castore.Digest) error {
	if len(digests) == 0 {
		return nil
	}
	has, err := v.store.castore.Has(ctx, digests)
	if err != nil {
		return err
	}
	var first error
	for i, d := range digests {
		p, bad := v.bad[d]
		switch {
		case bad:
			v.hit[d] = struct{}{}
			err = p.Err
		case !has[i]:
			err = castore.NotFound("blob", d)
		default:
			continue
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// reportUnused reports damage that no valid path was found to suffer from.
func (v *verifier) reportUnused() {
	for d, p := range v.bad {
		if _, ok := v.hit[d]; ok {
			continue
		}
		err := p.Err
		if p.Where != "" {
			err = fmt.Errorf("%s: %w", p.Where, err)
		}
		v.report(Problem{Err: err})
	}
}
