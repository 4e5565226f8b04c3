package castore

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of castore.v1. A number serves as the kind of the entry in
// Directory and Entry, which use the same three.
const (
	fieldDirectory protowire.Number = 1
	fieldFile      protowire.Number = 2
	fieldSymlink   protowire.Number = 3

	fieldName       protowire.Number = 1
	fieldDigest     protowire.Number = 2 // of directories and files
	fieldTarget     protowire.Number = 2 // of symlinks
	fieldSize       protowire.Number = 3
	fieldExecutable protowire.Number = 4
)

// Encode returns the canonical encoding of the directory, of which the digest
// is taken. The directory must validate.
func (d *Directory) Encode() []byte {
	size := 0
	for i := range d.Entries {
		n := sizeNode(d.Entries[i].Name, &d.Entries[i].Node)
		size += 1 + protowire.SizeBytes(n)
	}
	b := make([]byte, 0, size)
	for _, kind := range [...]NodeKind{KindDirectory, KindFile, KindSymlink} {
		for i := range d.Entries {
			if e := &d.Entries[i]; e.Node.Kind == kind {
				b = appendField(b, e.Name, &e.Node)
			}
		}
	}
	return b
}

// MarshalNode returns the encoding of an Entry message without a name, the form
// in which a node is kept outside of directories. The node must validate.
func MarshalNode(n Node) []byte {
	return appendField(make([]byte, 0, 1+protowire.SizeBytes(sizeNode("", &n))), "", &n)
}

// appendField appends an entry as a field whose number tells its kind.
func appendField(b []byte, name string, n *Node) []byte {
	num := fieldDirectory
	switch n.Kind {
	case KindFile:
		num = fieldFile
	case KindSymlink:
		num = fieldSymlink
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sizeNode(name, n)))
	return appendNode(b, name, n)
}

// sizeNode is the length of what appendNode appends. Every tag takes one byte.
func sizeNode(name string, n *Node) int {
	size := 0
	if name != "" {
		size += 1 + protowire.SizeBytes(len(name))
	}
	if n.Kind == KindSymlink {
		if n.Target != "" {
			size += 1 + protowire.SizeBytes(len(n.Target))
		}
		return size
	}
	size += 1 + protowire.SizeBytes(DigestSize)
	if n.Size != 0 {
		size += 1 + protowire.SizeVarint(n.Size)
	}
	if n.Executable {
		size += 2
	}
	return size
}

func appendNode(b []byte, name string, n *Node) []byte {
	if name != "" {
		b = protowire.AppendTag(b, fieldName, protowire.BytesType)
		b = protowire.AppendString(b, name)
	}
	if n.Kind == KindSymlink {
		if n.Target != "" {
			b = protowire.AppendTag(b, fieldTarget, protowire.BytesType)
			b = protowire.AppendString(b, n.Target)
		}
		return b
	}
	b = protowire.AppendTag(b, fieldDigest, protowire.BytesType)
	b = protowire.AppendBytes(b, n.Digest[:])
	if n.Size != 0 {
		b = protowire.AppendTag(b, fieldSize, protowire.VarintType)
		b = protowire.AppendVarint(b, n.Size)
	}
	if n.Executable {
		b = protowire.AppendTag(b, fieldExecutable, protowire.VarintType)
		b = append(b, 1)
	}
	return b
}
