package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func isValidPath(ctx context.Context, s *session, q *wp.PathRequest) (*wp.IsValidPathResponse, error) {
	valid, err := s.isValid(ctx, q.Path)
	return &wp.IsValidPathResponse{Valid: valid}, err
}

func (s *session) isValid(ctx context.Context, p storepath.Path) (bool, error) {
	valid, err := s.store().PathInfo().Valid(ctx, []storepath.Path{p})
	return len(valid) == 1, err
}

// queryValidPaths fetches nothing: there are no substituters.
func queryValidPaths(ctx context.Context, s *session, q *wp.QueryValidPathsRequest) (*wp.PathsResponse, error) {
	valid, err := s.store().PathInfo().Valid(ctx, storepath.SortUnique(q.Paths))
	return &wp.PathsResponse{Paths: valid}, err
}

func queryAllValidPaths(ctx context.Context, s *session, _ *wp.EmptyRequest) (*wp.PathsResponse, error) {
	paths, err := s.store().PathInfo().Paths(ctx)
	return &wp.PathsResponse{Paths: paths}, err
}

func queryPathInfo(ctx context.Context, s *session, q *wp.PathRequest) (*wp.QueryPathInfoResponse, error) {
	info, err := s.store().PathInfo().Get(ctx, q.Path)
	switch {
	case errors.Is(err, pathinfo.ErrNotFound):
		return &wp.QueryPathInfoResponse{}, nil
	case err != nil:
		return nil, err
	}
	return &wp.QueryPathInfoResponse{Info: infoToWire(info)}, nil
}

func infoToWire(info *pathinfo.PathInfo) *wp.PathInfo {
	return &wp.PathInfo{
		Deriver:          info.Deriver,
		NarHash:          info.NarHash,
		References:       info.References,
		RegistrationTime: info.RegistrationTime,
		NarSize:          info.NarSize,
		Ultimate:         info.Ultimate,
		Signatures:       info.Signatures,
		CA:               info.CA,
	}
}

func queryPathFromHashPart(ctx context.Context, s *session, q *wp.QueryPathFromHashPartRequest) (*wp.OptionalPathResponse, error) {
	info, err := s.store().PathInfo().GetByHashPart(ctx, q.Digest)
	switch {
	case errors.Is(err, pathinfo.ErrNotFound):
		return &wp.OptionalPathResponse{}, nil
	case err != nil:
		return nil, err
	}
	return &wp.OptionalPathResponse{Path: info.Path}, nil
}

func queryReferrers(ctx context.Context, s *session, q *wp.PathRequest) (*wp.PathsResponse, error) {
	paths, err := s.store().PathInfo().Referrers(ctx, q.Path)
	return &wp.PathsResponse{Paths: paths}, err
}

func queryDeriver(ctx context.Context, s *session, q *wp.PathRequest) (*wp.OptionalPathResponse, error) {
	info, err := s.validInfo(ctx, q.Path)
	if err != nil {
		return nil, err
	}
	return &wp.OptionalPathResponse{Path: info.Deriver}, nil
}

func queryValidDerivers(ctx context.Context, s *session, q *wp.PathRequest) (*wp.PathsResponse, error) {
	paths, err := s.store().PathInfo().Derivers(ctx, q.Path)
	return &wp.PathsResponse{Paths: paths}, err
}

// queryDerivationOutputs is the old form of queryDerivationOutputMap.
func queryDerivationOutputs(ctx context.Context, s *session, q *wp.PathRequest) (*wp.PathsResponse, error) {
	outputs, err := s.outputMap(ctx, q.Path)
	if err != nil {
		return nil, err
	}
	paths := make([]storepath.Path, 0, len(outputs))
	for _, p := range outputs {
		if !p.IsZero() {
			paths = append(paths, p)
		}
	}
	return &wp.PathsResponse{Paths: storepath.SortUnique(paths)}, nil
}

func queryDerivationOutputNames(ctx context.Context, s *session, q *wp.PathRequest) (*wp.NamesResponse, error) {
	drv, err := s.store().ReadDerivation(ctx, q.Path)
	if err != nil {
		return nil, err
	}
	return &wp.NamesResponse{Names: slices.Sorted(maps.Keys(drv.Outputs))}, nil
}

func queryDerivationOutputMap(ctx context.Context, s *session, q *wp.PathRequest) (*wp.QueryDerivationOutputMapResponse, error) {
	outputs, err := s.outputMap(ctx, q.Path)
	return &wp.QueryDerivationOutputMapResponse{Outputs: outputs}, err
}

// Nothing can be substituted.
func querySubstitutablePaths(context.Context, *session, *wp.PathsRequest) (*wp.PathsResponse, error) {
	return &wp.PathsResponse{}, nil
}

func querySubstitutablePathInfo(context.Context, *session, *wp.PathRequest) (*wp.QuerySubstitutablePathInfoResponse, error) {
	return &wp.QuerySubstitutablePathInfoResponse{}, nil
}

func querySubstitutablePathInfos(context.Context, *session, *wp.QuerySubstitutablePathInfosRequest) (*wp.QuerySubstitutablePathInfosResponse, error) {
	return &wp.QuerySubstitutablePathInfosResponse{}, nil
}

// narFromPath promises an archive when its first bytes are there: there is no way to take the
// promise back, and most of what can be wrong with a path shows before.
func narFromPath(ctx context.Context, s *session) error {
	var q wp.PathRequest
	if err := s.conn.ReadRequest(&q); err != nil {
		return s.conn.Fail(err)
	}
	if err := s.keep(q.Path); err != nil { // it must last as long as the archive
		return s.conn.Fail(err)
	}
	root, err := s.store().Root(ctx, q.Path)
	if err != nil {
		return s.conn.Fail(s.explain(ctx, err))
	}
	w := &promisedData{conn: s.conn}
	err = s.store().WriteNAR(ctx, root, w)
	switch {
	case err == nil:
		return s.conn.EndData()
	case w.dst == nil && w.err == nil:
		return s.conn.Fail(s.explain(ctx, fmt.Errorf("read path '%s': %w", s.printPath(q.Path), err)))
	case w.err == nil && ctx.Err() == nil:
		s.logger.Error("an archive breaks off, for its path cannot be read", "path", s.printPath(q.Path), "error", err)
	}
	return err // the connection is closed: a cut archive is no archive
}

// promisedData is data behind a response that is sent with the first byte of it.
type promisedData struct {
	conn *wp.ServerConn
	dst  io.Writer // nil: nothing was promised yet
	err  error     // of the connection
}

func (p *promisedData) Write(b []byte) (n int, err error) {
	if p.dst == nil && p.err == nil {
		p.dst, p.err = p.conn.FinishWithData(&wp.EmptyResponse{})
	}
	if p.err == nil {
		n, p.err = p.dst.Write(b)
	}
	return n, p.err
}

// validInfo is an error in Nix's words for a path that is not valid.
func (s *session) validInfo(ctx context.Context, p storepath.Path) (*pathinfo.PathInfo, error) {
	info, err := s.store().PathInfo().Get(ctx, p)
	if errors.Is(err, pathinfo.ErrNotFound) {
		return nil, s.notValid(p)
	}
	return info, err
}
