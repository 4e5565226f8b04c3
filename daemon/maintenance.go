package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// optimiseStore has nothing to do: equal contents are stored once from the beginning.
func optimiseStore(context.Context, *session, *wp.EmptyRequest) (*wp.AckResponse, error) {
	return &wp.AckResponse{}, nil
}

func verifyStore(ctx context.Context, s *session, q *wp.VerifyStoreRequest) (*wp.VerifyStoreResponse, error) {
	if q.Repair && !s.trusted {
		return nil, errors.New("you are not privileged to repair paths")
	}
	s.conn.Log(wp.LevelInfo, "reading the Nix store...")
	s.conn.Log(wp.LevelInfo, "checking path existence...")
	options := store.VerifyOptions{CheckContents: q.CheckContents}
	if q.CheckContents {
		s.conn.Log(wp.LevelInfo, "checking store hashes...")
	}
	if q.Repair {
		options.Repair = s.repair
	}
	damaged := 0
	err := s.store().VerifyAll(ctx, options, func(p store.Problem) {
		if p.Repaired { // it was reported before
			damaged--
			s.conn.Log(wp.LevelInfo, fmt.Sprintf("repaired path '%s'", s.printPath(p.Path)))
			return
		}
		damaged++
		s.conn.Log(wp.LevelError, p.Err.Error())
	})
	if err != nil {
		return nil, fmt.Errorf("verify store: %w", err)
	}
	return &wp.VerifyStoreResponse{Errors: damaged > 0}, nil
}

// repair gets a damaged path anew: by building it again, where its derivation is there, else from
// a substituter.
func (s *session) repair(ctx context.Context, path storepath.Path) error {
	target := build.Target{Path: path}
	derivers, err := s.store().PathInfo().Derivers(ctx, path)
	if err != nil {
		return err
	}
	if len(derivers) > 0 {
		outputs, err := s.store().PathInfo().DrvOutputs(ctx, derivers[0])
		if err != nil {
			return err
		}
		for name, output := range outputs {
			if output == path {
				target = build.Target{Drv: derivers[0], Outputs: []string{name}}
			}
		}
	}
	results, err := s.d.opts.Builder.Build(ctx, build.Request{
		Targets:  []build.Target{target},
		Mode:     build.Repair,
		Settings: buildSettings(s.config),
		Sink:     sink{s.conn},
		Lease:    s.lease,
	})
	if err != nil {
		return err
	}
	return s.d.opts.Builder.Failure(results, sink{s.conn})
}
