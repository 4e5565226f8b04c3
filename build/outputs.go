package build

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/store/refscan"
	"github.com/tvixd/tvixd/storepath"
)

// takenOutput is an output that the builder made, copied into the store but
// not registered.
type takenOutput struct {
	name     string
	out      derivation.Output
	ingested *store.Ingested
	info     pathinfo.PathInfo
}

// takeOutputs copies what the builder made, checks it, and registers it, all
// outputs together. Every process of the builder is gone, and what is read
// here is what is hashed, so nothing that somebody kept open matters.
func (a *attempt) takeOutputs() error {
	var taken []*takenOutput
	defer func() {
		for _, t := range taken {
			t.ingested.Release()
		}
	}()
	for _, name := range a.drv.OutputNames() {
		if !a.missing[name] && a.mode == Normal {
			continue
		}
		t := &takenOutput{name: name, out: a.drv.Outputs[name]}
		if err := a.ingest(t); err != nil {
			return err
		}
		taken = append(taken, t)
	}
	taken, err := a.order(taken)
	if err != nil {
		return err
	}
	var mismatch error // told after the paths are registered under what they are
	infos := make(map[string]*pathinfo.PathInfo, len(taken))
	for _, t := range taken {
		if err := a.describe(t); err != nil {
			return err
		}
		if t.out.Kind == derivation.Fixed && mismatch == nil {
			mismatch = a.checkFixed(t)
		}
		infos[t.name] = &t.info
	}
	if a.mode == Check {
		if err := a.compare(taken); err != nil {
			return err
		}
		return errors.Join(mismatch, a.checkOutputs(infos))
	}
	if mismatch == nil {
		if err := a.checkOutputs(infos); err != nil {
			return err
		}
	}
	if err := a.register(taken); err != nil {
		return err
	}
	return mismatch
}

func (a *attempt) register(taken []*takenOutput) error {
	infos := make([]pathinfo.PathInfo, len(taken))
	for i, t := range taken {
		if a.b.sign != nil {
			a.b.sign(&t.info)
		}
		infos[i] = t.info
	}
	if a.mode == Repair {
		return a.b.store.Replace(a.ctx, infos)
	}
	return a.b.store.Register(a.ctx, infos)
}

// rejected is an error about an output.
func rejected(format string, args ...any) error { return failf(OutputRejected, format, args...) }

// ingest copies an output out of the scratch folder.
func (a *attempt) ingest(t *takenOutput) error {
	dir := a.b.dir
	full := dir.Join(t.out.Path)
	var top unix.Stat_t
	err := unix.Fstatat(a.workspace.storeFD, t.out.Path.Base(), &top, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || err == nil && isHole(&top) {
		return rejected("builder for '%s' failed to produce output path for output '%s' at '%s'",
			dir.Join(a.drvPath), t.name, full)
	}
	if err != nil {
		return fmt.Errorf("stat output '%s': %w", full, err)
	}
	// Somebody else could have changed what others may write.
	writable := top.Mode&unix.S_IFMT != unix.S_IFLNK && top.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0
	if writable || a.user != nil && top.Uid != a.user.UID {
		return rejected("suspicious ownership or permission on '%s' for output '%s'; rejecting this build output",
			full, t.name)
	}
	t.ingested, err = a.b.store.IngestTree(a.ctx, a.workspace.storeFD, t.out.Path.Base(), store.TreeOptions{
		Candidates: a.candidates(),
		Path:       full,
		Check: func(rel string, st *unix.Stat_t) error {
			if a.user != nil && st.Uid != a.user.UID {
				return rejected("invalid ownership on file '%s'", full+"/"+rel)
			}
			return nil
		},
	})
	return a.treeError(err)
}

// isHole reports whether a file is what hides a lower layer's file.
func isHole(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// treeError tells apart what is wrong with an output and with the daemon.
func (a *attempt) treeError(err error) error {
	var e *Error
	var errno syscall.Errno
	switch {
	case err == nil, errors.As(err, &e), a.ctx.Err() != nil:
		return err
	case errors.As(err, &errno) && !errors.Is(err, store.ErrUnsupportedFile) && !errors.Is(err, store.ErrFileChanged):
		return err // the disk is full, or broken
	}
	return &Error{Status: OutputRejected, Msg: err.Error()}
}

// candidates are the paths that outputs may refer to: the inputs and the
// outputs themselves.
func (a *attempt) candidates() []storepath.Path {
	paths := slices.Clone(a.closure)
	for _, o := range a.drv.Outputs {
		paths = append(paths, o.Path)
	}
	return storepath.SortUnique(paths)
}

// order sorts outputs so that each comes after those that it refers to.
func (a *attempt) order(taken []*takenOutput) ([]*takenOutput, error) {
	byPath := make(map[storepath.Path]*takenOutput, len(taken))
	for _, t := range taken {
		byPath[t.out.Path] = t
	}
	const onTheWay, done = 1, 2
	state := make(map[*takenOutput]int, len(taken))
	sorted := make([]*takenOutput, 0, len(taken))
	var visit func(t, parent *takenOutput) error
	visit = func(t, parent *takenOutput) error {
		switch state[t] {
		case done:
			return nil
		case onTheWay:
			return rejected("cycle detected in build of '%s' in the references of output '%s' from output '%s'",
				a.b.dir.Join(a.drvPath), t.name, parent.name)
		}
		state[t] = onTheWay
		for _, ref := range t.ingested.References {
			if to := byPath[ref]; to != nil && to != t {
				if err := visit(to, t); err != nil {
					return err
				}
			}
		}
		state[t] = done
		sorted = append(sorted, t)
		return nil
	}
	for _, t := range taken {
		if err := visit(t, nil); err != nil {
			return nil, err
		}
	}
	return sorted, nil
}

// describe makes an output's metadata.
func (a *attempt) describe(t *takenOutput) error {
	t.info = pathinfo.PathInfo{Path: t.out.Path, Deriver: a.drvPath, Ultimate: true}
	if t.out.Kind == derivation.Fixed {
		if err := a.address(t); err != nil {
			return err
		}
	}
	t.info.Root = t.ingested.Root
	t.info.NarHash, t.info.NarSize = t.ingested.NarHash, t.ingested.NarSize
	t.info.References = slices.Clone(t.ingested.References)
	storepath.Sort(t.info.References)
	return nil
}

// address finds the path that a fixed output's contents have, which differs
// from what the derivation says when they are not what it says.
func (a *attempt) address(t *takenOutput) error {
	full := a.b.dir.Join(t.out.Path)
	want := t.out.CA
	root := t.ingested.Root
	if want.Method != storepath.NAR && (root.Kind != castore.KindFile || root.Executable) {
		return rejected("output path '%s' should be a non-executable regular file "+
			"since recursive hashing is not enabled (outputHashMode=flat)", full)
	}
	var refs storepath.References
	self := storepath.Path{}
	for _, ref := range t.ingested.References {
		if ref == t.out.Path {
			refs.Self, self = true, ref
		} else {
			refs.Others = append(refs.Others, ref)
		}
	}
	hash, err := a.b.store.HashNode(a.ctx, root, want.Method, want.Hash.Algo, self)
	if err != nil {
		return fmt.Errorf("hash output '%s': %w", full, err)
	}
	ca := storepath.ContentAddress{Method: want.Method, Hash: hash}
	final, err := a.b.dir.FromContentAddress(storepath.OutputName(a.drv.Name, t.name), ca, refs)
	if err != nil {
		return &Error{Status: OutputRejected, Msg: err.Error()}
	}
	a.lease.Add(final)
	t.info.Path, t.info.CA = final, ca
	if refs.Self && final != t.out.Path {
		return a.rewriteSelf(t, final)
	}
	return nil
}

// rewriteSelf makes an output refer to itself by its final name.
func (a *attempt) rewriteSelf(t *takenOutput, final storepath.Path) error {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		rw, err := refscan.NewRewriter(pw, map[string]string{t.out.Path.HashPart(): final.HashPart()})
		if err == nil {
			err = errors.Join(a.b.store.WriteNAR(a.ctx, t.ingested.Root, rw), rw.Close())
		}
		pw.CloseWithError(err)
		done <- err
	}()
	candidates := slices.DeleteFunc(a.candidates(), func(p storepath.Path) bool { return p == t.out.Path })
	in, err := a.b.store.IngestNAR(a.ctx, pr, store.IngestOptions{Candidates: append(candidates, final)})
	pr.CloseWithError(err)
	if e := <-done; err == nil && e != nil {
		in.Release()
		err = e
	}
	if err != nil {
		return fmt.Errorf("rewrite output '%s': %w", a.b.dir.Join(t.out.Path), err)
	}
	t.ingested.Release()
	t.ingested = in
	return nil
}

// checkFixed compares a fixed output with what the derivation promised.
func (a *attempt) checkFixed(t *takenOutput) error {
	dir := a.b.dir
	if got, want := t.info.CA.Hash, t.out.CA.Hash; got != want {
		err := failf(OutputRejected, "hash mismatch in fixed-output derivation '%s':\n  specified: %s\n     got:    %s",
			dir.Join(a.drvPath), want.SRI(), got.SRI())
		err.hashMismatch = true
		return err
	}
	if n := len(t.info.References); n > 0 {
		return rejected("fixed-output derivations must not reference store paths: '%s' references %v distinct paths, e.g. '%s'",
			dir.Join(a.drvPath), n, dir.Join(t.info.References[0]))
	}
	return nil
}

// compare checks outputs against those that are valid.
func (a *attempt) compare(taken []*takenOutput) error {
	dir := a.b.dir
	for _, t := range taken {
		old, err := a.b.store.PathInfo().Get(a.ctx, t.info.Path)
		if errors.Is(err, pathinfo.ErrNotFound) {
			continue // a fixed output that is not what was promised
		}
		if err != nil {
			return err
		}
		full := dir.Join(t.info.Path)
		if old.NarHash == t.info.NarHash {
			if old.Ultimate {
				continue
			}
			old.Ultimate = true // we have made it now
			if err := a.b.store.Register(a.ctx, []pathinfo.PathInfo{*old}); err != nil {
				return err
			}
			continue
		}
		if !a.keepFailed() {
			return failf(NotDeterministic, "derivation '%s' may not be deterministic: output '%s' differs",
				dir.Join(a.drvPath), full)
		}
		kept, err := a.keepCheck(t)
		if err != nil {
			return err
		}
		return failf(NotDeterministic, "derivation '%s' may not be deterministic: output '%s' differs from '%s'",
			dir.Join(a.drvPath), full, dir.Join(kept))
	}
	return nil
}

// keepCheck makes an output that differs visible beside the one it should
// equal: as a path of its own, since the store folder has nothing else.
func (a *attempt) keepCheck(t *takenOutput) (storepath.Path, error) {
	p, err := storepath.ParseBase(t.info.Path.Base() + ".check")
	if err != nil {
		return p, err
	}
	a.lease.Add(p)
	info := pathinfo.PathInfo{
		Path: p, Root: t.info.Root, NarHash: t.info.NarHash, NarSize: t.info.NarSize, Ultimate: true,
	}
	for _, ref := range t.info.References {
		valid, err := a.b.store.PathInfo().Valid(a.ctx, []storepath.Path{ref})
		if err != nil {
			return p, err
		}
		info.References = append(info.References, valid...)
	}
	// An earlier one with other contents gives way.
	return p, a.b.store.Replace(a.ctx, []pathinfo.PathInfo{info})
}
