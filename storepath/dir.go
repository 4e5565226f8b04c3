package storepath

import (
	"bytes"
	"strings"
)

// Dir is a store folder: absolute, and free of ".", ".." and needless slashes.
type Dir string

// DefaultDir is the store folder of nearly every machine.
const DefaultDir Dir = "/nix/store"

// NewDir cleans an absolute path and makes it a store folder.
func NewDir(path string) (Dir, error) {
	clean, err := canonical(path)
	if err != nil {
		return "", err
	}
	if clean == "/" {
		return "", badPath("the root folder cannot be a Nix store")
	}
	return Dir(clean), nil
}

// String is the folder's path.
func (d Dir) String() string { return string(d) }

// Join is the full path of p, or "" when p is none.
func (d Dir) Join(p Path) string {
	if p.IsZero() {
		return ""
	}
	return string(d) + "/" + p.base
}

// AppendJoin appends the full path of p to b. Nothing is appended when p is none.
func (d Dir) AppendJoin(b []byte, p Path) []byte {
	if p.IsZero() {
		return b
	}
	b = append(b, d...)
	b = append(b, '/')
	return append(b, p.base...)
}

// Contains reports whether full is below the store folder, as text: nothing is
// cleaned and no link followed.
func (d Dir) Contains(full string) bool {
	return len(full) > len(d)+1 && full[len(d)] == '/' && full[:len(d)] == string(d)
}

// Parse reads the full path of a store object. The path is cleaned first, as
// Nix does it: "//", "/./" and a last slash go, ".." takes the folder before
// it. The result may keep full alive.
func (d Dir) Parse(full string) (Path, error) {
	if d.Contains(full) {
		// Nothing to clean, as in nearly all calls.
		if base := full[len(d)+1:]; len(base) > HashLen && strings.IndexByte(base, '/') < 0 {
			return ParseBase(base)
		}
	}
	clean, err := canonical(full)
	if err != nil {
		return Path{}, err
	}
	slash := strings.LastIndexByte(clean, '/')
	dir, base := clean[:slash], clean[slash+1:]
	if dir != string(d) || base == "" {
		return Path{}, badPath("path '%s' is not in the Nix store", clean)
	}
	return ParseBase(base)
}

// ParseInside splits a path that is a store object or lies in one. rest is ""
// or begins with a slash, and is not cleaned.
func (d Dir) ParseInside(full string) (p Path, rest string, err error) {
	if !d.Contains(full) {
		return Path{}, "", badPath("path '%s' is not in the Nix store", full)
	}
	object := full
	if i := strings.IndexByte(full[len(d)+1:], '/'); i >= 0 {
		object, rest = full[:len(d)+1+i], full[len(d)+1+i:]
	}
	p, err = d.Parse(object)
	if err != nil {
		return Path{}, "", err
	}
	return p, rest, nil
}

// canonical cleans an absolute path. It differs from path.Clean only in what
// it refuses.
func canonical(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		return "", badPath("not an absolute path: '%s'", path)
	}
	clean := make([]byte, 0, len(path))
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
		case "..":
			clean = clean[:max(0, bytes.LastIndexByte(clean, '/'))]
		default:
			clean = append(append(clean, '/'), part...)
		}
	}
	if len(clean) == 0 {
		return "/", nil
	}
	return string(clean), nil
}
