package castore

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// DecodeDirectory reads the canonical encoding of a directory and validates
// it. Anything but the canonical form is refused, so that one directory has one
// digest; errors wrap [ErrInvalid]. It keeps no reference to b.
func DecodeDirectory(b []byte) (*Directory, error) {
	d := &decoder{buf: string(b)}
	var lists [3][]Entry
	if err := d.countEntries(&lists); err != nil {
		return nil, fmt.Errorf("decode directory: %w", err)
	}
	last := fieldDirectory
	for d.pos < len(d.buf) {
		num, err := d.messageTag()
		if err != nil {
			return nil, fmt.Errorf("decode directory: %w", err)
		}
		if num < last {
			return nil, fmt.Errorf("decode directory: %w: fields out of order", ErrInvalid)
		}
		last = num
		name, node, err := d.node(num)
		if err != nil {
			return nil, fmt.Errorf("decode directory: %w", err)
		}
		list := &lists[num-1]
		*list = append(*list, Entry{name, node})
	}
	dir := &Directory{Entries: mergeEntries(lists)}
	if err := dir.Validate(); err != nil {
		return nil, err
	}
	return dir, nil
}

// UnmarshalNode reads what [MarshalNode] wrote, as strictly as
// [DecodeDirectory], and validates it.
func UnmarshalNode(b []byte) (Node, error) {
	d := &decoder{buf: string(b)}
	num, err := d.messageTag()
	if err != nil {
		return Node{}, fmt.Errorf("decode node: %w", err)
	}
	name, node, err := d.node(num)
	if err != nil {
		return Node{}, fmt.Errorf("decode node: %w", err)
	}
	if name != "" || d.pos != len(d.buf) {
		return Node{}, fmt.Errorf("decode node: %w: name or trailing data", ErrInvalid)
	}
	if err := node.Validate(); err != nil {
		return Node{}, fmt.Errorf("decode node: %w", err)
	}
	return node, nil
}

// decoder walks over a message that it holds as a string, so that names and
// targets share one allocation.
type decoder struct {
	buf string
	pos int
}

// countEntries makes the three lists of the right capacity. It looks at tags
// and lengths only, and leaves the position as it was.
func (d *decoder) countEntries(lists *[3][]Entry) error {
	start := d.pos
	var counts [3]int
	for d.pos < len(d.buf) {
		num, err := d.messageTag()
		if err != nil {
			return err
		}
		n, err := d.length()
		if err != nil {
			return err
		}
		d.pos += n
		counts[num-1]++
	}
	for i, n := range counts {
		lists[i] = make([]Entry, 0, n)
	}
	d.pos = start
	return nil
}

// messageTag reads the tag of a field of Directory or Entry.
func (d *decoder) messageTag() (protowire.Number, error) {
	num, typ, err := d.tag()
	if err != nil {
		return 0, err
	}
	if num < fieldDirectory || num > fieldSymlink || typ != protowire.BytesType {
		return 0, fmt.Errorf("%w: unknown field %d of type %d", ErrInvalid, num, typ)
	}
	return num, nil
}

// node reads the length and the fields of one entry.
func (d *decoder) node(kind protowire.Number) (name string, n Node, err error) {
	size, err := d.length()
	if err != nil {
		return "", Node{}, err
	}
	m := decoder{buf: d.buf[d.pos : d.pos+size]}
	d.pos += size
	switch kind {
	case fieldDirectory:
		n.Kind = KindDirectory
	case fieldFile:
		n.Kind = KindFile
	default:
		n.Kind = KindSymlink
	}
	hasDigest := false
	var last protowire.Number
	for m.pos < len(m.buf) {
		num, typ, err := m.tag()
		if err != nil {
			return "", Node{}, err
		}
		if num <= last {
			return "", Node{}, fmt.Errorf("%w: fields of %s out of order", ErrInvalid, n.Kind)
		}
		last = num
		if num == fieldDigest && n.Kind != KindSymlink {
			hasDigest = true
		}
		if err := m.field(num, typ, &name, &n); err != nil {
			return "", Node{}, err
		}
	}
	if n.Kind != KindSymlink && !hasDigest {
		return "", Node{}, fmt.Errorf("%w: %s %.300q without a digest", ErrInvalid, n.Kind, name)
	}
	return name, n, nil
}

// field reads the value of one field into the name or the node. Default values
// are refused: the canonical form leaves them out.
func (d *decoder) field(num protowire.Number, typ protowire.Type, name *string, n *Node) error {
	switch {
	case num == fieldName && typ == protowire.BytesType:
		return d.str(name)
	case num == fieldTarget && typ == protowire.BytesType && n.Kind == KindSymlink:
		return d.str(&n.Target)
	case num == fieldDigest && typ == protowire.BytesType && n.Kind != KindSymlink:
		var s string
		if err := d.str(&s); err != nil {
			return err
		}
		if len(s) != DigestSize {
			return fmt.Errorf("%w digest length %d", ErrInvalid, len(s))
		}
		copy(n.Digest[:], s)
		return nil
	case num == fieldSize && typ == protowire.VarintType && n.Kind != KindSymlink:
		v, err := d.varint()
		if err == nil && v == 0 {
			err = fmt.Errorf("%w: default value of field %d", ErrInvalid, num)
		}
		n.Size = v
		return err
	case num == fieldExecutable && typ == protowire.VarintType && n.Kind == KindFile:
		v, err := d.varint()
		if err == nil && v != 1 {
			err = fmt.Errorf("%w: executable is %d", ErrInvalid, v)
		}
		n.Executable = true
		return err
	default:
		return fmt.Errorf("%w: unknown field %d of type %d in %s", ErrInvalid, num, typ, n.Kind)
	}
}

func (d *decoder) tag() (protowire.Number, protowire.Type, error) {
	v, err := d.varint()
	if err != nil {
		return 0, 0, err
	}
	num, typ := protowire.DecodeTag(v)
	if num < protowire.MinValidNumber {
		return 0, 0, fmt.Errorf("%w: field number %d", ErrInvalid, num)
	}
	return num, typ, nil
}

// str reads a length and that many bytes, at least one.
func (d *decoder) str(s *string) error {
	n, err := d.length()
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: empty field", ErrInvalid)
	}
	*s = d.buf[d.pos : d.pos+n]
	d.pos += n
	return nil
}

// length reads a length that must fit into what is left.
func (d *decoder) length() (int, error) {
	v, err := d.varint()
	if err != nil {
		return 0, err
	}
	if v > uint64(len(d.buf)-d.pos) {
		return 0, fmt.Errorf("%w: truncated", ErrInvalid)
	}
	return int(v), nil
}

// varint reads a varint in its shortest form.
func (d *decoder) varint() (uint64, error) {
	var v uint64
	for i := 0; i < 10 && d.pos < len(d.buf); i++ {
		c := d.buf[d.pos]
		d.pos++
		if i == 9 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return 0, fmt.Errorf("%w: overlong varint", ErrInvalid)
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w: bad varint", ErrInvalid)
}

// mergeEntries merges the three lists by name. If they are sorted, so is the
// result; if not, Validate finds it.
func mergeEntries(lists [3][]Entry) []Entry {
	total := len(lists[0]) + len(lists[1]) + len(lists[2])
	for _, list := range lists {
		if len(list) == total {
			return list
		}
	}
	merged := make([]Entry, 0, total)
	for len(merged) < total {
		best := -1
		for i, list := range lists {
			if len(list) > 0 && (best < 0 || list[0].Name < lists[best][0].Name) {
				best = i
			}
		}
		merged = append(merged, lists[best][0])
		lists[best] = lists[best][1:]
	}
	return merged
}
