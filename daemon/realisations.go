package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

const caDerivations = "ca-derivations"

func registerDrvOutput(ctx context.Context, s *session, q *wp.RegisterDrvOutputRequest) (*wp.EmptyResponse, error) {
	if !s.d.opts.Config.HasFeature(caDerivations) {
		return nil, fmt.Errorf("experimental Nix feature '%[1]s' is disabled; use '--extra-experimental-features %[1]s' to override", caDerivations)
	}
	r := &q.Realisation
	id, err := s.outputID(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if err := s.mayRegister(r); err != nil {
		return nil, err
	}
	dependencies := make(map[string]storepath.Path, len(r.Dependencies))
	for id, path := range r.Dependencies {
		dependencies[id.String()] = path
	}
	s.lease.Add(r.OutPath)
	err = s.store().PathInfo().PutRealisation(ctx, pathinfo.Realisation{
		ID:                    id.String(),
		OutPath:               r.OutPath,
		Signatures:            r.Signatures,
		DependentRealisations: dependencies,
	})
	return &wp.EmptyResponse{}, err
}

// mayRegister refuses what nobody vouches for: that an output of a derivation is at a path can
// only be believed.
func (s *session) mayRegister(r *wp.Realisation) error {
	if s.trusted || !s.config.RequireSigs || s.keys.accepts(realisationFingerprint(r), r.Signatures) {
		return nil
	}
	return fmt.Errorf("cannot register realisation '%s' because it lacks a signature by a trusted key", r.OutPath)
}

// realisationFingerprint is what the signatures of a realisation are made of: its JSON without
// them, keys sorted.
func realisationFingerprint(r *wp.Realisation) string {
	dependencies := map[string]string{}
	for id, path := range r.Dependencies {
		dependencies[id.String()] = path.Base()
	}
	text, err := json.Marshal(map[string]any{
		"dependentRealisations": dependencies, "id": r.ID.String(), "outPath": r.OutPath.Base(),
	})
	if err != nil { // strings, which can always be encoded
		panic(err)
	}
	return string(text)
}

func queryRealisation(ctx context.Context, s *session, q *wp.QueryRealisationRequest) (*wp.QueryRealisationResponse, error) {
	id, err := s.outputID(ctx, q.ID)
	if err != nil {
		return nil, err
	}
	r, err := s.store().PathInfo().Realisation(ctx, id.String())
	switch {
	case errors.Is(err, pathinfo.ErrNotFound):
		return &wp.QueryRealisationResponse{}, nil
	case err != nil:
		return nil, err
	}
	out := &wp.Realisation{ID: id, OutPath: r.OutPath, Signatures: r.Signatures, Dependencies: map[wp.DrvOutput]storepath.Path{}}
	for text, path := range r.DependentRealisations {
		dependency, err := wp.ParseDrvOutput(text)
		if err != nil {
			return nil, fmt.Errorf("read realisation: %w", err)
		}
		out.Dependencies[dependency] = path
	}
	return &wp.QueryRealisationResponse{Realisation: out}, nil
}

// outputID adds the hash to a name that has the derivation only, as newer clients send it.
func (s *session) outputID(ctx context.Context, id wp.DrvOutput) (wp.DrvOutput, error) {
	if id.Drv.IsZero() || !id.Hash.IsZero() {
		return id, nil
	}
	drv, err := s.store().ReadDerivation(ctx, id.Drv)
	if err != nil {
		return id, err
	}
	id.Hash, err = s.hashModulo(ctx, drv)
	return id, err
}

// outputMap has the outputs of a valid derivation by name, with no path for those that are not
// known yet.
func (s *session) outputMap(ctx context.Context, path storepath.Path) (map[string]storepath.Path, error) {
	drv, err := s.store().ReadDerivation(ctx, path)
	if err != nil {
		return nil, err
	}
	outputs := make(map[string]storepath.Path, len(drv.Outputs))
	open := false
	for name, o := range drv.Outputs {
		outputs[name] = o.Path
		open = open || o.Path.IsZero()
	}
	if !open {
		return outputs, nil
	}
	id := wp.DrvOutput{}
	if id.Hash, err = s.hashModulo(ctx, drv); err != nil {
		return nil, err
	}
	for name, path := range outputs {
		if !path.IsZero() {
			continue
		}
		id.Output = name
		r, err := s.store().PathInfo().Realisation(ctx, id.String())
		if err == nil {
			outputs[name] = r.OutPath
		} else if !errors.Is(err, pathinfo.ErrNotFound) {
			return nil, err
		}
	}
	return outputs, nil
}

func (s *session) hashModulo(ctx context.Context, drv *derivation.Derivation) (nixhash.Hash, error) {
	modulo, err := s.store().Hasher().HashModulo(drv, func(p storepath.Path) (*derivation.Derivation, error) {
		return s.store().ReadDerivation(ctx, p)
	})
	return modulo.Hash, err
}
