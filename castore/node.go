package castore

import (
	"fmt"
	"strings"
)

// Limits of the data model, in bytes. They are those of Linux file systems.
const (
	MaxNameLen   = 255
	MaxTargetLen = 4095
)

// NodeKind tells the three kinds of a [Node] apart.
type NodeKind uint8

// The kinds of nodes. The zero NodeKind is none of them.
const (
	KindDirectory NodeKind = iota + 1
	KindFile
	KindSymlink
)

// String returns "directory", "file" or "symlink".
func (k NodeKind) String() string {
	switch k {
	case KindDirectory:
		return "directory"
	case KindFile:
		return "file"
	case KindSymlink:
		return "symlink"
	default:
		return fmt.Sprintf("NodeKind(%d)", uint8(k))
	}
}

// Node is what a directory entry or a store path refers to. Nodes are
// comparable; the zero Node refers to nothing.
type Node struct {
	Kind NodeKind
	// Digest names the blob of a file or the encoding of a directory.
	Digest Digest
	// Size is the length of a file in bytes, or the number of entries of a
	// directory and of all directories below it ([Directory.Size]).
	Size uint64
	// Executable is the executable bit of a file.
	Executable bool
	// Target is where a symlink points to.
	Target string
}

// IsZero tells whether the node refers to nothing.
func (n Node) IsZero() bool { return n == Node{} }

// Validate checks the node by itself: a known kind, no fields of another kind,
// a lawful symlink target. Errors wrap [ErrInvalid].
func (n Node) Validate() error {
	switch n.Kind {
	case KindDirectory:
		if n.Executable || n.Target != "" {
			return fmt.Errorf("%w directory node: has fields of another kind", ErrInvalid)
		}
	case KindFile:
		if n.Target != "" {
			return fmt.Errorf("%w file node: has a symlink target", ErrInvalid)
		}
	case KindSymlink:
		if n.Executable || n.Size != 0 || !n.Digest.IsZero() {
			return fmt.Errorf("%w symlink node: has fields of another kind", ErrInvalid)
		}
		return validateTarget(n.Target)
	default:
		return fmt.Errorf("%w node: kind %d", ErrInvalid, n.Kind)
	}
	return nil
}

// Entry is a named [Node] in a [Directory].
type Entry struct {
	Name string
	Node Node
}

// ValidateName checks the name of a directory entry: 1 to [MaxNameLen] bytes,
// without '/' and NUL, not "." or "..". Errors wrap [ErrInvalid].
func ValidateName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
	case len(name) > MaxNameLen:
	case strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
	default:
		return nil
	}
	return fmt.Errorf("%w name %.300q", ErrInvalid, name)
}

func validateTarget(target string) error {
	if target == "" || len(target) > MaxTargetLen || strings.IndexByte(target, 0) >= 0 {
		return fmt.Errorf("%w symlink target %.300q", ErrInvalid, target)
	}
	return nil
}
