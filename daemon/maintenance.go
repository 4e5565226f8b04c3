package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/tvixd/tvixd/store"
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
	bad := false
	s.conn.Log(wp.LevelInfo, "reading the Nix store...")
	if q.CheckContents {
		s.conn.Log(wp.LevelInfo, "checking hashes...")
	}
	options := store.VerifyOptions{CheckContents: q.CheckContents, Repair: q.Repair}
	err := s.store().VerifyAll(ctx, options, func(p store.Problem) {
		bad = bad || !p.Repaired
		s.conn.Log(wp.LevelError, p.String())
	})
	if err != nil {
		return nil, fmt.Errorf("verify store: %w", err)
	}
	return &wp.VerifyStoreResponse{Errors: bad}, nil
}
