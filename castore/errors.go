package castore

import (
	"errors"
	"fmt"
)

// Errors that every implementation returns, wrapped with the name of what they
// speak of. Test for them with [errors.Is].
var (
	// ErrNotFound says that a blob or directory is not in the service.
	ErrNotFound = errors.New("not found")
	// ErrCorrupt says that a blob or directory is known, but that its stored
	// bytes are damaged. A put of the same content heals it.
	ErrCorrupt = errors.New("stored data is corrupt")
	// ErrInvalid says that a directory, a node or an encoding breaks the rules
	// of the data model.
	ErrInvalid = errors.New("invalid")
	// ErrClosed says that a service was used after its Close.
	ErrClosed = errors.New("store is closed")
)

// NotFound returns an error that names what is missing and wraps [ErrNotFound].
// The kind is "blob" or "directory".
func NotFound(kind string, d Digest) error {
	return &objectError{kind, d, ErrNotFound}
}

// Corrupt returns an error that names what is damaged, says how, and wraps
// [ErrCorrupt] as well as the cause, which may be nil.
func Corrupt(kind string, d Digest, cause error) error {
	if cause == nil {
		return &objectError{kind, d, ErrCorrupt}
	}
	return &objectError{kind, d, fmt.Errorf("%w: %w", ErrCorrupt, cause)}
}

// objectError is the error of one blob or directory. Its text is made only when
// somebody reads it: misses are common and must be cheap.
type objectError struct {
	kind   string
	digest Digest
	err    error
}

func (e *objectError) Error() string {
	return e.kind + " " + e.digest.String() + ": " + e.err.Error()
}

func (e *objectError) Unwrap() error { return e.err }

// DamageError is returned by [Keeper.Sweep] when something alive is missing or
// damaged. What only that refers to cannot be told from what is dead, and may be
// of use when the damage is mended; so nothing was dropped.
type DamageError struct {
	// Objects are some of the damaged ones, at least one.
	Objects []DamagedObject
}

// DamagedObject is something alive that cannot be read.
type DamagedObject struct {
	// Root is the live root from which it is reached; the zero node if it is
	// only held.
	Root Node
	// Err names what cannot be read, and wraps [ErrNotFound] or [ErrCorrupt].
	Err error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("nothing is dropped, since something alive cannot be read: %v", e.Objects[0].Err)
}
