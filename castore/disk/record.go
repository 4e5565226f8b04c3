package disk

import (
	"context"
	"fmt"

	"github.com/tvixd/tvixd/castore"
)

// AppendRecord writes a record of [KindPathInfo] to the packs, so that whoever
// makes the database again from them finds the metadata beside the data
// ([ScanPack]). The key is the caller's affair; of several records with one key
// the last one counts. Sweeps keep records. Durable after the next Sync.
func (s *Store) AppendRecord(ctx context.Context, key castore.Digest, payload []byte) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if len(payload) > maxObject {
		return fmt.Errorf("append record: %d bytes are too many", len(payload))
	}
	if err := s.admit(ctx); err != nil {
		return fmt.Errorf("append record: %w", err)
	}
	s.submit(s.addOwn(key, KindPathInfo, uint64(len(payload)), cloneBuf(payload)))
	return nil
}
