package workerprotocol

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/tvixd/tvixd/storepath"
)

// writeBufferSize is the size of a connection's write buffer.
const writeBufferSize = 32 << 10

var padding [8]byte

// Writer writes the primitives of the protocol through a buffer. After the first error all
// methods do nothing and Flush returns the error. It is not safe for concurrent use.
type Writer struct {
	dst *bufio.Writer
	err error // a value that cannot be written; errors of dst are kept by dst
}

// NewWriter makes a Writer to dst.
func NewWriter(dst io.Writer) *Writer {
	return &Writer{dst: bufio.NewWriterSize(dst, writeBufferSize)}
}

// Uint64 writes an integer.
func (w *Writer) Uint64(n uint64) {
	w.dst.Write(binary.LittleEndian.AppendUint64(w.dst.AvailableBuffer(), n)) // kept by dst
}

// Bool writes a boolean.
func (w *Writer) Bool(v bool) {
	if v {
		w.Uint64(1)
	} else {
		w.Uint64(0)
	}
}

// String writes a string.
func (w *Writer) String(s string) {
	w.Uint64(uint64(len(s)))
	w.dst.WriteString(s) // kept by dst
	w.pad(len(s))
}

// Bytes writes a string that is given as bytes.
func (w *Writer) Bytes(b []byte) {
	w.Uint64(uint64(len(b)))
	w.dst.Write(b) // kept by dst
	w.pad(len(b))
}

// Strings writes a list of strings.
func (w *Writer) Strings(list []string) {
	w.Uint64(uint64(len(list)))
	for _, s := range list {
		w.String(s)
	}
}

// path writes the full path of p, or the empty string for none, and allocates nothing.
func (w *Writer) path(dir storepath.Dir, p storepath.Path) {
	if p.IsZero() {
		w.Uint64(0)
		return
	}
	base := p.Base()
	n := len(dir) + 1 + len(base)
	w.Uint64(uint64(n))
	w.dst.WriteString(string(dir)) // kept by dst
	w.dst.WriteByte('/')           // kept by dst
	w.dst.WriteString(base)        // kept by dst
	w.pad(n)
}

func (w *Writer) pad(n int) {
	w.dst.Write(padding[:-n&7]) // kept by dst
}

// Flush hands everything written so far to the destination, and returns the first error there
// was.
func (w *Writer) Flush() error {
	if err := w.dst.Flush(); err != nil {
		return err
	}
	return w.err
}
