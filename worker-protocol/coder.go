package workerprotocol

import (
	"fmt"
	"maps"
	"slices"
	"time"
	"unsafe"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// Message is a request, a response or a value with an encoding of its own. All implementations
// are in this package.
type Message interface {
	// code reads the message from c or writes it to c, whichever c is for.
	code(c *coder)
}

// checked is implemented by messages that can hold what some protocol cannot express. It is asked
// before the first byte is written.
type checked interface {
	check(p Protocol) error
}

// coder moves messages in one direction. Each message describes its fields once, in terms of
// pointers, and so cannot be read in another way than it is written.
type coder struct {
	Protocol
	dir storepath.Dir
	r   *Reader // exactly one of r and w is set
	w   *Writer
}

// ReadMessage reads m, whose fields it overwrites. Errors that are not ErrProtocol and not of the
// source itself are about a value: then all of the message was consumed.
func ReadMessage(r *Reader, p Protocol, dir storepath.Dir, m Message) error {
	r.beginMessage()
	m.code(&coder{Protocol: p, dir: dir, r: r})
	if r.err != nil {
		return r.err
	}
	return r.bad
}

// WriteMessage writes m to w's buffer. The error tells that the protocol cannot express m, and
// then nothing was written; failures to write are told by w.Flush.
func WriteMessage(w *Writer, p Protocol, dir storepath.Dir, m Message) error {
	if c, ok := m.(checked); ok {
		if err := c.check(p); err != nil {
			return err
		}
	}
	m.code(&coder{Protocol: p, dir: dir, w: w})
	return nil
}

func (c *coder) reading() bool { return c.r != nil }

func (c *coder) uint64(what string, v *uint64) {
	if c.w != nil {
		c.w.Uint64(*v)
		return
	}
	*v = c.r.Uint64(what)
}

func (c *coder) uint32(what string, v *uint32) {
	if c.w != nil {
		c.w.Uint64(uint64(*v))
		return
	}
	*v = c.r.Uint32(what)
}

func (c *coder) bool(what string, v *bool) {
	if c.w != nil {
		c.w.Bool(*v)
		return
	}
	*v = c.r.Bool(what)
}

func (c *coder) string(what string, v *string) {
	if c.w != nil {
		c.w.String(*v)
		return
	}
	*v = c.r.String(what)
}

// text moves a string that may be long.
func (c *coder) text(what string, v *string) {
	if c.w != nil {
		c.w.String(*v)
		return
	}
	*v = c.r.Text(what)
}

func (c *coder) textList(what string, v *[]string) {
	if c.w != nil {
		c.w.Strings(*v)
		return
	}
	*v = c.r.Texts(what)
}

func (c *coder) stringList(what string, v *[]string) {
	if c.w != nil {
		c.w.Strings(*v)
		return
	}
	*v = c.r.Strings(what)
}

// obsolete is an integer without a meaning: written as n, skipped when read.
func (c *coder) obsolete(what string, n uint64) { c.uint64(what, &n) }

// enum moves a small number that has to be below limit.
func enum[T ~uint8](c *coder, what string, v *T, limit T) {
	n := uint64(*v)
	c.uint64(what, &n)
	if !c.reading() {
		return
	}
	if n >= uint64(limit) {
		c.r.reject(fmt.Errorf("invalid %s %d", what, n))
		n = 0
	}
	*v = T(n)
}

// seconds moves a time as seconds since 1970; the zero time is 0. Times beyond what a signed
// integer holds are refused.
func (c *coder) seconds(what string, v *time.Time) {
	var n uint64
	if !c.reading() && !v.IsZero() {
		n = uint64(v.Unix())
	}
	c.uint64(what, &n)
	if !c.reading() {
		return
	}
	*v = time.Time{}
	if int64(n) < 0 {
		c.r.reject(fmt.Errorf("%s %d is out of range", what, n))
	} else if n != 0 {
		*v = time.Unix(int64(n), 0).UTC()
	}
}

// optional moves the tag before a value that may be missing, and reports whether it is there.
func (c *coder) optional(what string, present bool) bool {
	var tag uint64
	if present {
		tag = 1
	}
	c.uint64(what, &tag)
	if c.reading() && tag > 1 {
		c.r.fail(what, "%d is neither 0 for missing nor 1 for present", tag)
	}
	return tag == 1
}

// path moves the full path of a store object, which must not be none.
func (c *coder) path(what string, v *storepath.Path) {
	if c.w != nil {
		c.w.path(c.dir, *v)
		return
	}
	if s := c.r.limited(what, maxPathLen); c.r.err == nil {
		p, err := c.dir.Parse(s)
		c.r.reject(err)
		*v = p
	}
}

// optionalPath moves the full path of a store object; none is the empty string.
func (c *coder) optionalPath(what string, v *storepath.Path) {
	if c.w != nil {
		c.w.path(c.dir, *v)
		return
	}
	*v = storepath.Path{}
	if s := c.r.limited(what, maxPathLen); s != "" {
		p, err := c.dir.Parse(s)
		c.r.reject(err)
		*v = p
	}
}

// basePath moves a store object's name without the store folder.
func (c *coder) basePath(what string, v *storepath.Path) {
	s := v.Base()
	c.string(what, &s)
	if c.reading() && c.r.err == nil {
		p, err := storepath.ParseBase(s)
		c.r.reject(err)
		*v = p
	}
}

// maxPathLen bounds a path in any form: longer ones exist on no system.
const maxPathLen = 64 << 10

func (c *coder) paths(what string, v *[]storepath.Path) {
	list(c, what, v, func(c *coder, p *storepath.Path) { c.path(what, p) })
}

func (c *coder) contentAddress(what string, v *storepath.ContentAddress) {
	s := ""
	if !c.reading() {
		s = v.String()
	}
	c.string(what, &s)
	if c.reading() {
		ca, err := storepath.ParseContentAddress(s)
		c.r.reject(err)
		*v = ca
	}
}

// hash moves a SHA-256 in hexadecimal without a prefix; all forms are read.
func (c *coder) hash(what string, v *nixhash.Hash) {
	s := ""
	if !c.reading() {
		s = v.Base16()
	}
	c.string(what, &s)
	if c.reading() && c.r.err == nil {
		h, err := nixhash.Parse(s, nixhash.SHA256)
		c.r.reject(err)
		*v = h
	}
}

// list moves a list by its number of entries and its entries. An empty list is read as nil.
func list[T any](c *coder, what string, v *[]T, entry func(*coder, *T)) {
	if c.w != nil {
		c.w.Uint64(uint64(len(*v)))
		for i := range *v {
			entry(c, &(*v)[i])
		}
		return
	}
	*v = nil
	n := c.r.count(what)
	if n == 0 {
		return
	}
	var zero T
	s := make([]T, 0, min(n, listCap))
	for i := 0; i < n && c.r.entry(what, uint64(unsafe.Sizeof(zero))); i++ {
		if c.r.skipping {
			s = s[:0]
		}
		s = append(s, zero)
		if entry(c, &s[len(s)-1]); c.r.err != nil {
			return
		}
	}
	*v = s
}

// dict moves a map as a list of keys and values, sorted by key. An empty map is read as nil; of
// repeated keys the last one counts.
func dict[V any](c *coder, what string, v *map[string]V, value func(*coder, *V)) {
	if c.w != nil {
		c.w.Uint64(uint64(len(*v)))
		for _, k := range slices.Sorted(maps.Keys(*v)) {
			e := (*v)[k]
			c.w.String(k)
			value(c, &e)
		}
		return
	}
	*v = nil
	n := c.r.count(what)
	if n == 0 {
		return
	}
	m := map[string]V{}
	for range n {
		var e V
		if !c.r.entry(what, 64+uint64(unsafe.Sizeof(e))) {
			return
		}
		k := c.r.String(what)
		if value(c, &e); c.r.err != nil {
			return
		}
		m[k] = e
	}
	*v = m
}

// errNotExpressible begins the errors of check.
func errNotExpressible(what string, p Protocol, why string) error {
	return fmt.Errorf("%s cannot be sent in protocol %s: %s", what, p, why)
}
