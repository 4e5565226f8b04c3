package pathinfo

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tvixd/tvixd/storepath"
)

// ErrNotFound is wrapped by the errors of methods that were asked for a path
// that is not valid, or for a realisation that is not known.
var ErrNotFound = errors.New("not found")

// NotFound returns an error for path that wraps ErrNotFound.
func NotFound(path storepath.Path) error {
	return fmt.Errorf("path %s: %w", path, ErrNotFound)
}

// ErrBadSignature is wrapped by the errors of methods that were given a
// signature that cannot be stored.
var ErrBadSignature = errors.New("bad signature")

// CheckSignatures refuses what is no signature whatever the key: an empty
// string, or one with a line end in it. Errors wrap ErrBadSignature.
func CheckSignatures(signatures []string) error {
	for _, s := range signatures {
		if s == "" || strings.ContainsAny(s, "\n\x00") {
			return fmt.Errorf("%w: %q", ErrBadSignature, s)
		}
	}
	return nil
}

// InvalidReferenceError says that Path cannot become valid, because it refers
// to Reference, which is not.
type InvalidReferenceError struct {
	Path, Reference storepath.Path
}

func (e *InvalidReferenceError) Error() string {
	return fmt.Sprintf("register path %s: its reference %s is not valid", e.Path, e.Reference)
}

// InUseError says that Path cannot be deleted, because Referrer refers to it.
type InUseError struct {
	Path, Referrer storepath.Path
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("delete path %s: it is in use by %s", e.Path, e.Referrer)
}

// CycleError says that paths cannot become valid, because they refer to each
// other: Path is reached from Parent, which it reaches.
type CycleError struct {
	Path, Parent storepath.Path
}

func (e *CycleError) Error() string {
	return fmt.Sprintf("register path %s: cycle in its references from %s", e.Path, e.Parent)
}

// RealisationConflictError says that a realisation contradicts a stored one.
type RealisationConflictError struct {
	// ID names the realisation that was to be stored.
	ID string

	// Dependency is the realisation that ID depends on and that is not stored
	// as it says; empty if ID itself is stored with another path.
	Dependency string

	// Have is the stored path, zero if the dependency is not stored at all;
	// Want is the one that was given.
	Have, Want storepath.Path
}

func (e *RealisationConflictError) Error() string {
	switch {
	case e.Dependency == "":
		return fmt.Sprintf("register realisation %s as %s: it is known as %s", e.ID, e.Want, e.Have)
	case e.Have.IsZero():
		return fmt.Sprintf("register realisation %s: it depends on %s, which is not known", e.ID, e.Dependency)
	default:
		return fmt.Sprintf("register realisation %s: it depends on %s as %s, which is known as %s",
			e.ID, e.Dependency, e.Want, e.Have)
	}
}
