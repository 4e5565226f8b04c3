package nar

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Writer writes an archive event by event. It has no buffer of its own: each
// header is one Write to the destination, so give it a *bufio.Writer (and
// flush that) unless the destination likes small writes. It checks all that a
// Reader checks, so whatever it writes without an error can be read back. The
// first error is final.
type Writer struct {
	dst   io.Writer
	loc   location
	state state
	left  uint64 // contents of the current Regular that are still to come
	pad   int
	err   error
	buf   []byte // one header, encoded
}

// NewWriter writes an archive to dst.
func NewWriter(dst io.Writer) *Writer {
	return &Writer{dst: dst, buf: make([]byte, 0, 512)}
}

// Reset makes w write a new archive to dst, keeping its buffers.
func (w *Writer) Reset(dst io.Writer) {
	w.dst = dst
	w.loc.reset()
	w.state, w.left, w.pad, w.err = atStart, 0, 0, nil
}

// Header writes the next event. The contents of the Regular before it must be
// complete; an entry's name must be greater than its predecessor's.
func (w *Writer) Header(h Header) error {
	if w.err != nil {
		return w.err
	}
	w.buf = w.buf[:0]
	if err := w.header(h); err != nil {
		return w.fail(err)
	}
	return w.flush()
}

// Write writes contents of the current Regular. More than its Size is refused
// whole.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if uint64(len(p)) > w.left {
		return 0, w.fail(w.loc.malformed("%d bytes more than the size of the file", uint64(len(p))-w.left))
	}
	n, err := w.dst.Write(p)
	w.left -= uint64(n)
	if err != nil {
		return n, w.fail(w.broken(err))
	}
	if w.left > 0 {
		return n, nil
	}
	w.buf = append(w.buf[:0], zeros[:w.pad]...)
	w.closeNode()
	return n, w.flush()
}

// Close checks that the archive is complete. It does not close or flush the destination.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.state != atEnd {
		return w.fail(w.loc.malformed("archive is not complete"))
	}
	return nil
}

func (w *Writer) header(h Header) error {
	switch w.state {
	case atStart:
		if h.Name != "" {
			return w.loc.malformed("the root cannot have the name %q", h.Name)
		}
		w.buf = append(w.buf, encMagic...)
	case inContents:
		return w.loc.malformed("%d bytes are missing", w.left)
	case atEnd:
		return w.loc.malformed("nothing can follow the root")
	case betweenTokens:
		if h.Kind == EndDirectory {
			w.loc.leave()
			w.closeNode()
			return nil
		}
		if err := w.entry(h.Name); err != nil {
			return err
		}
	}
	return w.node(h)
}

func (w *Writer) entry(name string) error {
	w.buf = append(w.buf, encEntry...)
	mark := len(w.buf) + 8
	w.buf = appendString(w.buf, name)
	raw := w.buf[mark : mark+len(name)]
	if !validName(raw) {
		return w.loc.malformed("invalid file name %q", name)
	}
	if !w.loc.next(raw) {
		return w.loc.malformed("directory is not sorted")
	}
	if w.loc.depth() >= MaxDepth {
		return w.loc.malformed("directory nesting exceeds maximum depth of %d", MaxDepth)
	}
	w.buf = append(w.buf, encNode...)
	return nil
}

func (w *Writer) node(h Header) error {
	switch h.Kind {
	case Regular:
		if h.Size > maxSize {
			return w.loc.malformed("contents of %d bytes are too long", h.Size)
		}
		if h.Executable {
			w.buf = append(w.buf, encExec...)
		} else {
			w.buf = append(w.buf, encFile...)
		}
		w.buf = binary.LittleEndian.AppendUint64(w.buf, h.Size)
		w.state, w.left, w.pad = inContents, h.Size, padding(h.Size)
		if h.Size == 0 {
			w.closeNode()
		}
	case Directory:
		w.buf = append(w.buf, encDirectory...)
		w.loc.enter()
		w.state = betweenTokens
	case Symlink:
		if !validTarget(h.Target) {
			return w.loc.malformed("invalid symlink target %q", h.Target)
		}
		w.buf = append(w.buf, encSymlink...)
		w.buf = appendString(w.buf, h.Target)
		w.closeNode()
	default:
		return w.loc.malformed("unexpected %v", h.Kind)
	}
	return nil
}

// closeNode encodes the end of a node and of the entry that it stands in.
func (w *Writer) closeNode() {
	if w.loc.depth() == 0 {
		w.buf = append(w.buf, encClose...)
		w.state = atEnd
		return
	}
	w.buf = append(w.buf, encCloseBoth...)
	w.state = betweenTokens
}

func (w *Writer) flush() error {
	if _, err := w.dst.Write(w.buf); err != nil {
		return w.fail(w.broken(err))
	}
	return nil
}

func (w *Writer) fail(err error) error {
	w.err = err
	return err
}

func (w *Writer) broken(err error) error {
	return fmt.Errorf("NAR: %s: write: %w", w.loc.path(), err)
}
