package store

import (
	"fmt"
	"sync"

	"github.com/tvixd/tvixd/castore"
)

// openDir is a directory whose entries are not all known yet. The feeder adds
// entries, workers settle them, and whoever settles the last one of a closed
// directory stores it and settles it in its parent. So directories are stored
// children first, and only those are in memory that wait for something.
type openDir struct {
	parent *openDir
	slot   int // in parent

	mu      sync.Mutex
	entries []castore.Entry // guarded by mu
	pending int             // entries to settle, and one until closed; guarded by mu
}

// add appends an entry and returns its slot. A pending one must be settled
// later. The root, which has no directory, is pending in slot 0 of nil.
func (d *openDir) add(name string, node castore.Node, pending bool) int {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, castore.Entry{Name: name, Node: node})
	if pending {
		d.pending++
	}
	return len(d.entries) - 1
}

// settle fills in a pending entry and reports whether the directory is
// complete.
func (d *openDir) settle(slot int, node castore.Node) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries[slot].Node = node
	d.pending--
	return d.pending == 0
}

// closed notes that there will be no more entries, and reports whether the
// directory is complete.
func (d *openDir) closed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending--
	return d.pending == 0
}

// close ends a directory.
func (in *ingest) close(d *openDir) error {
	if !d.closed() {
		return nil
	}
	return in.putUp(d)
}

// putUp stores a complete directory, and those above it that this completes.
func (in *ingest) putUp(d *openDir) error {
	for {
		dir := castore.Directory{Entries: d.entries}
		digest, err := in.store.castore.PutDirectory(in.ctx, &dir)
		if err != nil {
			return fmt.Errorf("store directory: %w", err)
		}
		node := castore.Node{Kind: castore.KindDirectory, Digest: digest, Size: dir.Size()}
		if d.parent == nil {
			in.root = node
			return nil
		}
		if !d.parent.settle(d.slot, node) {
			return nil
		}
		d = d.parent
	}
}
