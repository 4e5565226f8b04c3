package daemon

import (
	"context"
	"errors"

	"github.com/tvixd/tvixd/gc"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// addTempRoot leases a path, valid or not, for as long as the connection lasts.
func addTempRoot(_ context.Context, s *session, q *wp.PathRequest) (*wp.AckResponse, error) {
	return &wp.AckResponse{}, s.keep(q.Path)
}

func addIndirectRoot(_ context.Context, s *session, q *wp.AddIndirectRootRequest) (*wp.AckResponse, error) {
	return &wp.AckResponse{}, s.d.opts.Collector.AddIndirectRoot(q.Link)
}

// addPermRoot writes a link wherever the client wants it, with the daemon's rights.
func addPermRoot(_ context.Context, s *session, q *wp.AddPermRootRequest) (*wp.AddPermRootResponse, error) {
	if !s.trusted {
		//lint:ignore ST1005 Nix's text
		return nil, errors.New("you are not privileged to create perm roots\n\n" +
			"hint: you can just do this client-side without special privileges, and probably want to do that instead.")
	}
	s.lease.Add(q.Path)
	root, err := s.d.opts.Collector.AddPermRoot(q.Path, q.Root)
	return &wp.AddPermRootResponse{Root: root}, err
}

// syncWithGC was for clients that wrote temporary roots into files.
func syncWithGC(context.Context, *session, *wp.EmptyRequest) (*wp.AckResponse, error) {
	return &wp.AckResponse{}, nil
}

func findRoots(ctx context.Context, s *session, _ *wp.EmptyRequest) (*wp.FindRootsResponse, error) {
	found, err := s.d.opts.Collector.FindRoots(ctx, !s.trusted, s.log)
	if err != nil {
		return nil, err
	}
	roots := make([]wp.Root, len(found))
	for i, r := range found {
		roots[i] = wp.Root{Link: r.Link, Target: r.Path}
	}
	return &wp.FindRootsResponse{Roots: roots}, nil
}

func collectGarbage(ctx context.Context, s *session, q *wp.CollectGarbageRequest) (*wp.CollectGarbageResponse, error) {
	if q.DeleteReferrers || !q.WholeStore && q.Action != wp.GCDeleteSpecific {
		// Only with a feature that is not offered; never to be taken for the whole store.
		return nil, errors.New("collecting the garbage among given paths is not supported")
	}
	result, err := s.d.opts.Collector.Collect(ctx, gc.Request{
		Action:          gc.Action(q.Action),
		Paths:           q.Paths,
		MaxFreed:        q.MaxFreed,
		IgnoreLiveness:  q.IgnoreLiveness,
		KeepOutputs:     s.config.KeepOutputs,
		KeepDerivations: s.config.KeepDerivations,
		Log:             s.log,
	})
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(result.Paths))
	for i, p := range result.Paths {
		paths[i] = s.printPath(p)
	}
	return &wp.CollectGarbageResponse{Paths: paths, BytesFreed: result.BytesFreed}, nil
}

// log sends a message to the client, if it wants such ones.
func (s *session) log(level int, text string) { s.conn.Log(wp.Verbosity(level), text) }
