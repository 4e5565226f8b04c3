package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func buildPaths(ctx context.Context, s *session, q *wp.BuildPathsRequest) (*wp.AckResponse, error) {
	results, err := s.build(ctx, q, false)
	if err != nil {
		return nil, err
	}
	return &wp.AckResponse{}, withStatus(s.d.opts.Builder.Failure(results, sink{s.conn}))
}

func buildPathsWithResults(ctx context.Context, s *session, q *wp.BuildPathsRequest) (*wp.BuildPathsWithResultsResponse, error) {
	results, err := s.build(ctx, q, true)
	if err != nil {
		return nil, err
	}
	response := &wp.BuildPathsWithResultsResponse{Results: make([]wp.KeyedBuildResult, len(results))}
	for i := range results {
		response.Results[i] = wp.KeyedBuildResult{Path: q.Targets[i], BuildResult: resultToWire(&results[i])}
	}
	return response, nil
}

func (s *session) build(ctx context.Context, q *wp.BuildPathsRequest, withIDs bool) ([]build.Result, error) {
	if q.Mode == wp.BuildRepair && !s.trusted {
		return nil, errors.New("repairing is not allowed because you are not in 'trusted-users'")
	}
	targets, err := targetsFromWire(q.Targets)
	if err != nil {
		return nil, err
	}
	return s.d.opts.Builder.Build(ctx, build.Request{
		Targets:  targets,
		Mode:     build.Mode(q.Mode),
		Settings: buildSettings(s.config),
		Sink:     sink{s.conn},
		SkipIDs:  !withIDs,
		Lease:    s.lease,
	})
}

func targetsFromWire(paths []wp.DerivedPath) ([]build.Target, error) {
	targets := make([]build.Target, len(paths))
	for i, p := range paths {
		switch {
		case len(p.Via) > 0:
			return nil, fmt.Errorf("building outputs of '%s', a derivation that is itself built, is not supported", p.Path)
		case p.Built():
			targets[i] = build.Target{Drv: p.Path, Outputs: p.Outputs}
		default:
			targets[i] = build.Target{Path: p.Path}
		}
	}
	return targets, nil
}

func resultToWire(r *build.Result) wp.BuildResult {
	out := wp.BuildResult{
		Status:           wp.BuildStatus(r.Status),
		ErrorMsg:         r.ErrorMsg,
		TimesBuilt:       uint32(r.TimesBuilt),
		NonDeterministic: r.NonDeterministic,
		Start:            r.Start,
		Stop:             r.Stop,
	}
	if !r.Start.IsZero() {
		out.CPUUser, out.CPUSystem = &r.CPUUser, &r.CPUSystem
	}
	for name, o := range r.Outputs {
		id, err := wp.ParseDrvOutput(o.ID)
		if err != nil {
			continue // a derivation whose hash is not known has no realisations
		}
		id.Drv = r.Target.Drv
		if out.BuiltOutputs == nil {
			out.BuiltOutputs = make(map[string]wp.Realisation, len(r.Outputs))
		}
		out.BuiltOutputs[name] = wp.Realisation{ID: id, OutPath: o.Path}
	}
	return out
}

// withStatus adds the exit status to a failure, which old clients take from the error.
func withStatus(err error) error {
	var failure *build.Error
	if !errors.As(err, &failure) || failure.ExitStatus == 0 {
		return err
	}
	return &wp.Error{Msg: failure.Msg, Status: failure.ExitStatus}
}

// buildDerivation builds what a client describes. Where outputs are named by their inputs, only
// the whole chain of derivations could prove that they may have these names, so the client must
// be trusted; where they are named by contents, nothing needs a proof.
func buildDerivation(ctx context.Context, s *session, q *wp.BuildDerivationRequest) (*wp.BuildDerivationResponse, error) {
	if q.Mode == wp.BuildRepair && !s.trusted {
		return nil, errors.New("repairing is not allowed because you are not in 'trusted-users'")
	}
	drv, err := s.derivationFromWire(q)
	if err != nil {
		return nil, err
	}
	kind, err := drv.Type()
	if err != nil {
		return nil, err
	}
	byContents := kind == derivation.Fixed || kind == derivation.Floating || kind == derivation.Impure
	if !byContents && !s.trusted {
		return nil, errors.New("you are not privileged to build input-addressed derivations")
	}
	path := q.Path
	if !s.trusted {
		// The path that the client gave may be another derivation's.
		path, err = s.store().AddText(ctx, drv.Name+storepath.DrvExtension, drv.Format(s.store().Dir()), drv.References(),
			store.AddOptions{Keep: s.lease})
		if err != nil {
			return nil, err
		}
	}
	result, err := s.d.opts.Builder.BuildDerivation(ctx, path, drv, build.Request{
		Mode:     build.Mode(q.Mode),
		Settings: buildSettings(s.config),
		Sink:     sink{s.conn},
		Lease:    s.lease,
	})
	if err != nil {
		return nil, err
	}
	return &wp.BuildDerivationResponse{Result: resultToWire(&result)}, nil
}

func (s *session) derivationFromWire(q *wp.BuildDerivationRequest) (*derivation.Derivation, error) {
	name, err := derivation.NameFromPath(q.Path)
	if err != nil {
		return nil, err
	}
	drv := &derivation.Derivation{
		Name:      name,
		Outputs:   make(map[string]derivation.Output, len(q.Derivation.Outputs)),
		InputSrcs: storepath.SortUnique(q.Derivation.InputSrcs),
		System:    q.Derivation.Platform,
		Builder:   q.Derivation.Builder,
		Args:      q.Derivation.Args,
		Env:       q.Derivation.Env,
	}
	if drv.Env == nil {
		drv.Env = map[string]string{}
	}
	for output, o := range q.Derivation.Outputs {
		drv.Outputs[output], err = derivation.ParseOutput(s.store().Dir(), name, output, o.Path, o.HashAlgo, o.Hash)
		if err != nil {
			return nil, err
		}
	}
	return drv, nil
}

func ensurePath(ctx context.Context, s *session, q *wp.PathRequest) (*wp.AckResponse, error) {
	if err := s.keep(q.Path); err != nil {
		return nil, err
	}
	valid, err := s.isValid(ctx, q.Path)
	if valid || err != nil {
		return &wp.AckResponse{}, err
	}
	results, err := s.d.opts.Builder.Build(ctx, build.Request{
		Targets:  []build.Target{{Path: q.Path}},
		Settings: buildSettings(s.config),
		Sink:     sink{s.conn},
		SkipIDs:  true,
		Lease:    s.lease,
	})
	if err != nil {
		return nil, err
	}
	if !results[0].Status.OK() {
		return nil, fmt.Errorf("path '%s' does not exist and cannot be created", s.printPath(q.Path))
	}
	return &wp.AckResponse{}, nil
}

func queryMissing(ctx context.Context, s *session, q *wp.QueryMissingRequest) (*wp.QueryMissingResponse, error) {
	targets, err := targetsFromWire(q.Targets)
	if err != nil {
		return nil, err
	}
	m, err := s.d.opts.Builder.Missing(ctx, targets, buildSettings(s.config))
	if err != nil {
		return nil, err
	}
	return &wp.QueryMissingResponse{
		WillBuild:      m.WillBuild,
		WillSubstitute: m.WillSubstitute,
		Unknown:        m.Unknown,
		DownloadSize:   m.DownloadSize,
		NarSize:        m.NarSize,
	}, nil
}

func addBuildLog(ctx context.Context, s *session, q *wp.AddBuildLogRequest) (*wp.AckResponse, error) {
	if !s.trusted {
		return nil, errors.New("you are not privileged to add logs")
	}
	return &wp.AckResponse{}, s.d.opts.Builder.AddLog(ctx, q.Drv, s.conn.Data(), buildSettings(s.config))
}
