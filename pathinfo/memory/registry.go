package memory

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Register implements pathinfo.Registry.
func (s *Service) Register(ctx context.Context, infos []pathinfo.PathInfo) error {
	return s.register(ctx, infos, false)
}

// Replace implements pathinfo.Registry.
func (s *Service) Replace(ctx context.Context, infos []pathinfo.PathInfo) error {
	return s.register(ctx, infos, true)
}

func (s *Service) register(ctx context.Context, infos []pathinfo.PathInfo, replace bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := pathinfo.Order(infos); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()

	batch := make(map[storepath.Path]struct{}, len(infos))
	for i := range infos {
		if err := infos[i].Validate(); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		batch[infos[i].Path] = struct{}{}
	}
	for i := range infos {
		for _, ref := range infos[i].References {
			if _, ok := batch[ref]; ok {
				continue
			}
			if _, ok := s.paths[ref]; !ok {
				return &pathinfo.InvalidReferenceError{Path: infos[i].Path, Reference: ref}
			}
		}
	}
	if replace {
		if err := s.checkCycles(infos); err != nil {
			return err
		}
	}
	now := s.now().Truncate(time.Second)
	for i := range infos {
		s.put(infos[i].Clone(), replace, now)
	}
	// The references of a path are linked last, when the whole batch is there.
	for path := range batch {
		for _, ref := range s.paths[path].info.References {
			s.paths[ref].referrers[path] = struct{}{}
		}
	}
	return nil
}

// checkCycles makes sure that no valid path reaches itself when it gets the
// references in infos.
func (s *Service) checkCycles(infos []pathinfo.PathInfo) error {
	fresh := make(map[storepath.Path][]storepath.Path, len(infos))
	for i := range infos {
		fresh[infos[i].Path] = infos[i].References // of several the last one stays
	}
	refs := func(p storepath.Path) []storepath.Path {
		if r, ok := fresh[p]; ok {
			return r
		}
		return s.paths[p].info.References
	}
	for start := range fresh {
		if _, ok := s.paths[start]; !ok {
			continue
		}
		seen := map[storepath.Path]struct{}{start: {}}
		stack := []storepath.Path{start}
		for len(stack) > 0 {
			p := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, ref := range refs(p) {
				if ref == start && p != start {
					return &pathinfo.CycleError{Path: start, Parent: p}
				}
				if _, ok := seen[ref]; !ok {
					seen[ref] = struct{}{}
					stack = append(stack, ref)
				}
			}
		}
	}
	return nil
}

// put stores info, which is the callee's, apart from the back references.
func (s *Service) put(info *pathinfo.PathInfo, replace bool, now time.Time) {
	info.Normalise()
	outputs := info.Outputs
	info.Outputs = nil
	r, ok := s.paths[info.Path]
	if !ok {
		if info.RegistrationTime.IsZero() {
			info.RegistrationTime = now
		}
		r = &record{referrers: make(map[storepath.Path]struct{}), lastUse: info.RegistrationTime}
		s.paths[info.Path] = r
		s.byDigest[info.Path.Digest()] = info.Path
		r.info = info
		s.setOutputs(info.Path, r, outputs)
		return
	}
	old := r.info
	for _, ref := range old.References {
		delete(s.paths[ref].referrers, info.Path)
	}
	if !replace {
		kept := old.Clone()
		kept.Ultimate = old.Ultimate || info.Ultimate
		if kept.Deriver.IsZero() {
			kept.Deriver = info.Deriver
		}
		if kept.CA == (storepath.ContentAddress{}) {
			kept.CA = info.CA
		}
		kept.Signatures = info.Signatures
		info = kept
	}
	info.Signatures = pathinfo.MergeSignatures(old.Signatures, info.Signatures)
	info.RegistrationTime = old.RegistrationTime
	r.info = info
	if outputs != nil {
		s.setOutputs(info.Path, r, outputs)
	}
}

func (s *Service) setOutputs(drv storepath.Path, r *record, outputs map[string]storepath.Path) {
	for _, out := range r.outputs {
		if drvs := s.derivers[out]; drvs != nil {
			delete(drvs, drv)
			if len(drvs) == 0 {
				delete(s.derivers, out)
			}
		}
	}
	r.outputs = maps.Clone(outputs)
	for _, out := range outputs {
		if s.derivers[out] == nil {
			s.derivers[out] = make(map[storepath.Path]struct{})
		}
		s.derivers[out][drv] = struct{}{}
	}
}

// Delete implements pathinfo.Registry.
func (s *Service) Delete(ctx context.Context, paths []storepath.Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set := make(map[storepath.Path]struct{}, len(paths))
	for _, p := range paths {
		set[p] = struct{}{}
	}
	for _, p := range paths {
		r, ok := s.paths[p]
		if !ok {
			continue
		}
		for referrer := range r.referrers {
			if _, ok := set[referrer]; !ok {
				return &pathinfo.InUseError{Path: p, Referrer: referrer}
			}
		}
	}
	for p := range set {
		r, ok := s.paths[p]
		if !ok {
			continue
		}
		for _, ref := range r.info.References {
			if t, ok := s.paths[ref]; ok {
				delete(t.referrers, p)
			}
		}
		s.setOutputs(p, r, nil)
		delete(s.paths, p)
		if s.byDigest[p.Digest()] == p {
			delete(s.byDigest, p.Digest())
		}
	}
	s.dropRealisations(set)
	return nil
}

// dropRealisations forgets the realisations of deleted paths, and that others
// depended on them.
func (s *Service) dropRealisations(deleted map[storepath.Path]struct{}) {
	for id, r := range s.realisations {
		if _, ok := deleted[r.OutPath]; ok {
			delete(s.realisations, id)
			continue
		}
		for dep, path := range r.DependentRealisations {
			if _, ok := deleted[path]; ok {
				delete(r.DependentRealisations, dep)
			}
		}
	}
}

// AddSignatures implements pathinfo.Registry.
func (s *Service) AddSignatures(ctx context.Context, path storepath.Path, signatures []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := pathinfo.CheckSignatures(signatures); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.paths[path]
	if !ok {
		return pathinfo.NotFound(path)
	}
	info := r.info.Clone()
	info.Signatures = pathinfo.MergeSignatures(info.Signatures, signatures)
	r.info = info
	return nil
}

// SetDrvOutputs implements pathinfo.Registry.
func (s *Service) SetDrvOutputs(ctx context.Context, drv storepath.Path, outputs map[string]storepath.Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.paths[drv]
	if !ok {
		return pathinfo.NotFound(drv)
	}
	s.setOutputs(drv, r, outputs)
	return nil
}

// Touch implements pathinfo.Registry.
func (s *Service) Touch(ctx context.Context, paths []storepath.Path, at time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at = at.Truncate(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range paths {
		if r, ok := s.paths[p]; ok && r.lastUse.Before(at) {
			r.lastUse = at
		}
	}
	return nil
}
