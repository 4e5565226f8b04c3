package daemon

import (
	"context"
	"fmt"

	"github.com/tvixd/tvixd/castore"
)

// Stats says how large a store is and who uses it.
type Stats struct {
	// Paths are the valid paths, NarBytes the sum of their archives' sizes.
	Paths    uint64 `json:"paths"`
	NarBytes uint64 `json:"narBytes"`

	// Objects are the blobs, chunks and directories that the paths consist of, ObjectBytes the
	// sum of their sizes, each counted once, and StoredBytes the space that they take on disk.
	Objects     uint64 `json:"objects"`
	ObjectBytes uint64 `json:"objectBytes"`
	StoredBytes uint64 `json:"storedBytes"`
	Packs       uint64 `json:"packs"`

	// Clients are those that are connected.
	Clients int64 `json:"clients"`
}

// Stats looks at the whole store, which takes some time.
func (d *Daemon) Stats(ctx context.Context) (Stats, error) {
	graph, err := d.opts.Store.PathInfo().Graph(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("read statistics: %w", err)
	}
	var contents castore.Stats
	if contents, err = d.opts.Store.Castore().Stats(ctx); err != nil {
		return Stats{}, fmt.Errorf("read statistics: %w", err)
	}
	s := Stats{
		Paths:       uint64(len(graph)),
		Objects:     contents.Objects,
		ObjectBytes: contents.ObjectBytes,
		StoredBytes: contents.StoredBytes,
		Packs:       contents.Packs,
		Clients:     d.connected.Load(),
	}
	for i := range graph {
		s.NarBytes += graph[i].NarSize
	}
	return s, nil
}
