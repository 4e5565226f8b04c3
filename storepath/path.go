// Package storepath has the names of store objects and the rules by which Nix
// makes them.
//
//	/nix/store / qv7b2kkvqdbhs3gcp9nkd0ls4p1cvz2j - hello-2.12.1
//	└── Dir ─┘   └ digest, 20 bytes in nix32 ───┘   └ name ────┘
//	             └ base ──────────────────────────────────────┘
//
// A digest is the SHA-256 of "type:innerhash:dir:name", folded to 20 bytes:
//
//	text[:ref…]            sha256 of the contents    a text, such as a derivation
//	source[:ref…][:self]   sha256 of the NAR         contents by NAR and SHA-256
//	output:out             sha256 of "fixed:out:…"   contents by any other way
//	output:<id>            hash of a derivation      an output named by its inputs
//
// All errors of this package have Nix's texts and may be shown to a client.
package storepath

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/nixhash"
)

const (
	// DigestSize is the number of bytes in a path's digest.
	DigestSize = 20
	// HashLen is the number of characters that the digest takes.
	HashLen = 32
	// MaxNameLen is the longest name in bytes.
	MaxNameLen = 211
	// DrvExtension ends the name of a derivation.
	DrvExtension = ".drv"
)

// ErrBadPath is what every error of this package about a path or a name is, in
// the sense of errors.Is.
var ErrBadPath = errors.New("bad store path")

type pathError string

func (e pathError) Error() string        { return string(e) }
func (e pathError) Is(target error) bool { return target == ErrBadPath }

func badPath(format string, args ...any) error {
	return pathError(fmt.Sprintf(format, args...))
}

// Path names a store object, without the store folder. It is a small value
// that can be compared with == and used as a map key. The zero value is none.
type Path struct {
	base string // always valid, or "" for none
}

// New makes a path of its parts. It fails when the name is not allowed.
func New(digest [DigestSize]byte, name string) (Path, error) {
	b := make([]byte, 0, HashLen+1+len(name))
	b = nixhash.AppendNix32(b, digest[:])
	b = append(b, '-')
	b = append(b, name...)
	p := Path{string(b)}
	if err := CheckName(name); err != nil {
		return Path{}, badPath("path '%s' is not a valid store path: %v", p.base, err)
	}
	return p, nil
}

// ParseBase reads "<hash>-<name>". The path keeps base alive.
func ParseBase(base string) (Path, error) {
	if len(base) < HashLen+1 {
		return Path{}, badPath("'%s' is too short to be a valid store path", base)
	}
	for i := range HashLen {
		if !nixhash.IsNix32(base[i]) {
			return Path{}, badPath("store path '%s' contains illegal base-32 character '%c'", base, base[i])
		}
	}
	if base[HashLen] != '-' {
		return Path{}, badPath("path '%s' is not a valid store path: no '-' after the hash", base)
	}
	if err := CheckName(base[HashLen+1:]); err != nil {
		return Path{}, badPath("path '%s' is not a valid store path: %v", base, err)
	}
	return Path{base}, nil
}

// ParseHashPart reads the 32 characters of a path's digest.
func ParseHashPart(s string) (digest [DigestSize]byte, err error) {
	if len(s) != HashLen {
		return digest, badPath("invalid hash part '%s'", s)
	}
	if _, err := nixhash.DecodeNix32(digest[:], s); err != nil {
		return digest, badPath("invalid hash part '%s'", s)
	}
	return digest, nil
}

// CheckName tells whether name may be the name of a store object: 1 to 211
// letters, digits and characters of "+-._?=", whose part before the first dash
// is neither "." nor "..".
func CheckName(name string) error {
	if name == "" {
		return badPath("name must not be empty")
	}
	if len(name) > MaxNameLen {
		return badPath("name '%s' must be no longer than %d characters", name, MaxNameLen)
	}
	if name[0] == '.' {
		switch first, _, dash := strings.Cut(name, "-"); {
		case first != "." && first != "..":
		case dash:
			return badPath("name '%s' is not valid: first dash-separated component must not be '%s'", name, first)
		default:
			return badPath("name '%s' is not valid", name)
		}
	}
	for i := range len(name) {
		if !nameChars[name[i]] {
			return badPath("name '%s' contains illegal character '%s'", name, name[i:i+1])
		}
	}
	return nil
}

var nameChars = func() (t [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._?=") {
		t[c] = true
	}
	return t
}()

// IsZero reports whether p is none.
func (p Path) IsZero() bool { return p.base == "" }

// Base is "<hash>-<name>", or "" for none. It allocates nothing.
func (p Path) Base() string { return p.base }

// String is Base.
func (p Path) String() string { return p.base }

// HashPart is the 32 characters of the digest, or "" for none.
func (p Path) HashPart() string {
	if p.IsZero() {
		return ""
	}
	return p.base[:HashLen]
}

// Name is what follows the hash and the dash, or "" for none.
func (p Path) Name() string {
	if p.IsZero() {
		return ""
	}
	return p.base[HashLen+1:]
}

// Digest is the 20 bytes that HashPart stands for, or zeros for none.
func (p Path) Digest() (digest [DigestSize]byte) {
	// The characters were checked when p was made, and 32 of them are 20
	// bytes with no bit left over.
	_, _ = nixhash.DecodeNix32(digest[:], p.HashPart())
	return digest
}

// IsDerivation reports whether the name ends in ".drv".
func (p Path) IsDerivation() bool { return strings.HasSuffix(p.base, DrvExtension) }

// Compare orders paths by the bytes of Base, as Nix's sets of paths are ordered.
func (p Path) Compare(o Path) int { return strings.Compare(p.base, o.base) }

// Sort sorts paths in place.
func Sort(paths []Path) { slices.SortFunc(paths, Path.Compare) }

// SortUnique sorts paths in place, drops repeated ones and returns the shorter slice.
func SortUnique(paths []Path) []Path {
	Sort(paths)
	return slices.Compact(paths)
}
