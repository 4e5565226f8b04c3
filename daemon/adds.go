package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func addToStore(ctx context.Context, s *session, q *wp.AddToStoreRequest) (*wp.AddToStoreResponse, error) {
	add := s.store().AddCA
	if s.conn.Data().IsNAR() { // whatever the method: old clients send nothing else
		add = s.store().AddCAFromNAR
	}
	// Anybody may repair these: the contents prove that they belong there.
	options := store.AddOptions{Repair: q.Repair, Keep: s.lease}
	info, err := add(ctx, q.Name, q.Method, q.Algo, q.References, s.conn.Data(), options)
	if err != nil {
		return nil, err
	}
	return &wp.AddToStoreResponse{Info: wp.ValidPathInfo{Path: info.Path, PathInfo: *infoToWire(info)}}, nil
}

func addTextToStore(ctx context.Context, s *session, q *wp.AddTextToStoreRequest) (*wp.PathResponse, error) {
	path, err := s.store().AddText(ctx, q.Name, []byte(q.Text), q.References, store.AddOptions{Keep: s.lease})
	return &wp.PathResponse{Path: path}, err
}

func addToStoreNar(ctx context.Context, s *session, q *wp.AddToStoreNarRequest) (*wp.EmptyResponse, error) {
	info := s.infoFromWire(&q.Info)
	if err := s.mayAdd(info, q.DontCheckSigs); err != nil {
		return nil, err
	}
	options := store.AddOptions{Repair: q.Repair && s.mayRepair(), Keep: s.lease}
	return &wp.EmptyResponse{}, s.store().AddNAR(ctx, *info, s.conn.Data(), options)
}

func addMultipleToStore(ctx context.Context, s *session, q *wp.AddMultipleToStoreRequest) (*wp.EmptyResponse, error) {
	items, err := s.conn.Items()
	if err != nil {
		return nil, err
	}
	batch := s.store().Batch(ctx)
	batch.AddOptions = store.AddOptions{Repair: q.Repair && s.mayRepair(), Keep: s.lease}
	defer batch.Close()
	for {
		claim, nar, err := items.Next()
		if err == io.EOF {
			return &wp.EmptyResponse{}, batch.Commit()
		}
		if err != nil {
			return nil, err
		}
		info := s.infoFromWire(claim)
		info.Ultimate = false // they were not built here, whatever the sender's store says
		if err := s.mayAdd(info, q.DontCheckSigs); err != nil {
			return nil, err
		}
		if err := batch.AddNAR(ctx, *info, nar); err != nil {
			return nil, err
		}
		items.Forget(batch.Done())
	}
}

// infoFromWire is what a client claims of a path.
func (s *session) infoFromWire(v *wp.ValidPathInfo) *pathinfo.PathInfo {
	info := &pathinfo.PathInfo{
		Path:             v.Path,
		NarHash:          v.NarHash,
		NarSize:          v.NarSize,
		References:       v.References,
		Deriver:          v.Deriver,
		CA:               v.CA,
		Signatures:       v.Signatures,
		RegistrationTime: v.RegistrationTime,
		Ultimate:         v.Ultimate && s.trusted,
	}
	info.Normalise()
	return info
}

// mayAdd refuses a path that nobody vouches for: it is not content-addressed, no trusted key
// has signed it, and the client may not or did not ask to do without.
func (s *session) mayAdd(info *pathinfo.PathInfo, dontCheckSigs bool) error {
	if dontCheckSigs && s.trusted || !s.config.RequireSigs {
		return nil
	}
	if s.store().IsContentAddressed(info) || s.keys.accepts(fingerprint(s.store().Dir(), info), info.Signatures) {
		return nil
	}
	return fmt.Errorf("cannot add path '%s' because it lacks a signature by a trusted key", s.printPath(info.Path))
}

// mayRepair reports whether the contents of a path that is valid may be replaced: by who is
// trusted, and by contents that somebody vouches for. Where signatures are not required anybody may
// add what nobody vouches for, but to replace what others use already takes more. The wish of
// who may not has no effect, as with a path that is sound.
func (s *session) mayRepair() bool { return s.trusted || s.config.RequireSigs }

func addSignatures(ctx context.Context, s *session, q *wp.AddSignaturesRequest) (*wp.AckResponse, error) {
	if !s.trusted {
		return nil, errors.New("you are not privileged to add signatures")
	}
	err := s.store().PathInfo().AddSignatures(ctx, q.Path, q.Signatures)
	if errors.Is(err, pathinfo.ErrNotFound) {
		err = s.notValid(q.Path)
	}
	return &wp.AckResponse{}, err
}

// notValid is Nix's error for a path that is not there.
func (s *session) notValid(p storepath.Path) error {
	return fmt.Errorf("path '%s' is not valid", s.printPath(p))
}
