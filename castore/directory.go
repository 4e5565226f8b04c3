package castore

import (
	"fmt"
	"math"
	"sort"
)

// Directory is a list of entries, sorted by the bytes of their names over all
// kinds, with no name twice.
type Directory struct {
	Entries []Entry
}

// Size returns the number of entries of the directory and of all directories
// below it, which is the Size of a node that refers to it. A sum that does not
// fit, which [Directory.Validate] refuses, gives the largest number.
func (d *Directory) Size() uint64 {
	n, ok := d.size()
	if !ok {
		return math.MaxUint64
	}
	return n
}

func (d *Directory) size() (n uint64, ok bool) {
	n = uint64(len(d.Entries))
	for i := range d.Entries {
		if node := &d.Entries[i].Node; node.Kind == KindDirectory {
			if node.Size > math.MaxUint64-n {
				return 0, false
			}
			n += node.Size
		}
	}
	return n, true
}

// Digest returns the name of the directory: the digest of its encoding.
func (d *Directory) Digest() Digest { return Sum(d.Encode()) }

// Node returns a node that refers to the directory.
func (d *Directory) Node() Node {
	return Node{Kind: KindDirectory, Digest: d.Digest(), Size: d.Size()}
}

// Lookup finds the node of an entry by its name.
func (d *Directory) Lookup(name string) (Node, bool) {
	i := sort.Search(len(d.Entries), func(i int) bool { return d.Entries[i].Name >= name })
	if i == len(d.Entries) || d.Entries[i].Name != name {
		return Node{}, false
	}
	return d.Entries[i].Node, true
}

// Validate checks names, nodes, order and the sum of sizes. Errors wrap
// [ErrInvalid]. A directory that validates can be encoded, and decodes to the
// same entries.
func (d *Directory) Validate() error {
	for i := range d.Entries {
		e := &d.Entries[i]
		if err := ValidateName(e.Name); err != nil {
			return fmt.Errorf("validate directory: %w", err)
		}
		if err := e.Node.Validate(); err != nil {
			return fmt.Errorf("validate directory: entry %q: %w", e.Name, err)
		}
		if i == 0 {
			continue
		}
		switch prev := d.Entries[i-1].Name; {
		case prev == e.Name:
			return fmt.Errorf("validate directory: %w: duplicate name %q", ErrInvalid, e.Name)
		case prev > e.Name:
			return fmt.Errorf("validate directory: %w order: %q after %q", ErrInvalid, e.Name, prev)
		}
	}
	if _, ok := d.size(); !ok {
		return fmt.Errorf("validate directory: %w: sum of sizes overflows", ErrInvalid)
	}
	return nil
}
