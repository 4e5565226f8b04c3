// Package pathinfo is the vocabulary of store path metadata: one PathInfo per
// valid path, the reference graph between them, the outputs of derivations and
// the realisations of content-addressed ones.
//
// A path is valid exactly when a Service has a PathInfo for it. The interfaces
// of this package say what a metadata service can do; pathinfo/sqlite keeps
// the metadata of a store on disk, pathinfo/memory in the process, and
// pathinfo/pathinfotest is the suite that every implementation passes.
//
// # Invariants that every Service keeps
//
//   - Every reference of a valid path is valid.
//   - The reference graph has no cycle, apart from paths that refer to
//     themselves.
//   - A registration or deletion of many paths happens wholly or not at all.
package pathinfo

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// PathInfo is what a store knows about one valid path.
type PathInfo struct {
	// Path is the store path that this metadata is about.
	Path storepath.Path

	// Root is the content: a file, directory or symlink in a castore.
	Root castore.Node

	// NarHash is the SHA-256 of the path's NAR serialisation.
	NarHash nixhash.Hash

	// NarSize is the length of the NAR serialisation in bytes.
	NarSize uint64

	// References are the paths that the contents refer to, sorted and without
	// duplicates. A path may refer to itself.
	References []storepath.Path

	// Deriver is the derivation that built the path, or zero if that is not
	// known. It need not be valid.
	Deriver storepath.Path

	// CA says how the path follows from its contents; zero for a path that
	// does not.
	CA storepath.ContentAddress

	// Signatures are those of the path's fingerprint, each "key:base64",
	// sorted and without duplicates.
	Signatures []string

	// RegistrationTime is the time when the path became valid, in whole
	// seconds. Register takes the present time for a zero one.
	RegistrationTime time.Time

	// Ultimate is true if the path was built here, so that its contents need
	// no signature to be trusted.
	Ultimate bool

	// Outputs are, for a derivation, the output paths that are known before
	// it is built, by output name. They are stored by Register and Replace,
	// in the transaction that makes the derivation valid; the services' read
	// methods leave the field nil (see Relations.DrvOutputs).
	Outputs map[string]storepath.Path
}

// Clone returns a copy of p that shares no memory with it.
func (p *PathInfo) Clone() *PathInfo {
	c := *p
	c.References = slices.Clone(p.References)
	c.Signatures = slices.Clone(p.Signatures)
	c.Outputs = maps.Clone(p.Outputs)
	return &c
}

// HasReference reports whether p refers to ref.
func (p *PathInfo) HasReference(ref storepath.Path) bool {
	_, ok := slices.BinarySearchFunc(p.References, ref, storepath.Path.Compare)
	return ok
}

// Normalise puts References and Signatures into their canonical order, drops
// duplicates and cuts RegistrationTime to whole seconds.
func (p *PathInfo) Normalise() {
	p.References = sortedSet(p.References, storepath.Path.Compare)
	p.Signatures = MergeSignatures(p.Signatures, nil)
	if !p.RegistrationTime.IsZero() {
		p.RegistrationTime = p.RegistrationTime.Truncate(time.Second)
	}
}

// Validate reports what keeps p from being registered, whatever else is
// valid.
func (p *PathInfo) Validate() error {
	switch {
	case p.Path.IsZero():
		return errors.New("path is missing")
	case p.NarHash.Algo != nixhash.SHA256:
		return fmt.Errorf("path %s: NAR hash must be of type sha256, not %q", p.Path, p.NarHash.Algo)
	}
	if err := p.Root.Validate(); err != nil {
		return fmt.Errorf("path %s: %w", p.Path, err)
	}
	if err := CheckSignatures(p.Signatures); err != nil {
		return fmt.Errorf("path %s: %w", p.Path, err)
	}
	return nil
}

// MergeSignatures returns the sorted union of two sets of signatures, nil if
// it is empty. The arguments are left as they are.
func MergeSignatures(a, b []string) []string {
	return sortedSet(slices.Concat(a, b), strings.Compare)
}

// sortedSet returns the elements of s sorted and unique. It returns s itself
// if that is so already, and otherwise a new slice.
func sortedSet[T comparable](s []T, compare func(a, b T) int) []T {
	if len(s) == 0 {
		return nil
	}
	sorted := true
	for i := 1; i < len(s) && sorted; i++ {
		sorted = compare(s[i-1], s[i]) < 0
	}
	if sorted {
		return s
	}
	s = slices.Clone(s)
	slices.SortFunc(s, compare)
	return slices.Compact(s)
}

// PathRefs is one node of the reference graph, with what a collector needs to
// know about it.
type PathRefs struct {
	// Path is the valid path.
	Path storepath.Path

	// References are the paths that Path refers to, itself possibly included.
	References []storepath.Path

	// Deriver is the derivation that built Path, valid or not; zero if
	// unknown.
	Deriver storepath.Path

	// Outputs are the known outputs of a derivation, valid or not.
	Outputs []storepath.Path

	// NarSize is the length of the path's NAR in bytes.
	NarSize uint64

	// RegistrationTime is when the path became valid.
	RegistrationTime time.Time

	// LastUse is the last time that Registry.Touch was told of, never before
	// RegistrationTime.
	LastUse time.Time
}

// Realisation says that an output of a derivation, named by the derivation's
// hash modulo its inputs, was built as a certain path.
type Realisation struct {
	// ID is "sha256:<base16 derivation hash>!<output name>".
	ID string

	// OutPath is the path that the output was realised as.
	OutPath storepath.Path

	// Signatures are those of the realisation, sorted.
	Signatures []string

	// DependentRealisations are those that this one was built with, with
	// their output paths, by ID.
	DependentRealisations map[string]storepath.Path
}

// Clone returns a copy of r that shares no memory with it.
func (r *Realisation) Clone() *Realisation {
	c := *r
	c.Signatures = slices.Clone(r.Signatures)
	c.DependentRealisations = maps.Clone(r.DependentRealisations)
	return &c
}
