package workerprotocol

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// ErrProtocol is what every error about a peer that breaks the protocol's grammar is, in the
// sense of errors.Is. The connection cannot be used after it.
var ErrProtocol = errors.New("worker protocol violated")

// Limits bounds what one message may make the reader keep. The zero value stands for the
// defaults in the fields' descriptions.
type Limits struct {
	// String is the longest string in bytes; 64 MiB.
	String uint64
	// Message is the number of bytes that all strings and list entries of one message may
	// occupy; 256 MiB.
	Message uint64
	// Frame is the longest frame of a framed stream in bytes; 4 GiB less one, as in Nix. Frames
	// are streamed, so the limit costs no memory.
	Frame uint64
}

func (l Limits) withDefaults() Limits {
	if l.String == 0 {
		l.String = 64 << 20
	}
	if l.Message == 0 {
		l.Message = 256 << 20
	}
	if l.Frame == 0 {
		l.Frame = math.MaxUint32
	}
	return l
}

// readBufferSize is the size of a connection's read buffer. A string that fits is read without a
// second copy.
const readBufferSize = 32 << 10

// Reader reads the primitives of the protocol. After the first error all methods return zero
// values and Err tells the error, so a caller may read a whole message and look once. It is not
// safe for concurrent use.
type Reader struct {
	src    *bufio.Reader
	limits Limits
	budget uint64 // what is left of limits.Message
	err    error  // the first violation of the grammar or failure to read
	bad    error  // the first value that is well-formed but not allowed
}

// NewReader makes a Reader of src.
func NewReader(src io.Reader, limits Limits) *Reader {
	r := &Reader{src: bufio.NewReaderSize(src, readBufferSize), limits: limits.withDefaults()}
	r.beginMessage()
	return r
}

// beginMessage renews the memory that a message may occupy.
func (r *Reader) beginMessage() {
	r.budget = r.limits.Message
	r.bad = nil
}

// Err is the first error that makes further reading impossible.
func (r *Reader) Err() error { return r.err }

// fail records a violation of the grammar.
func (r *Reader) fail(what, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("read %s: %s: %w", what, fmt.Sprintf(format, args...), ErrProtocol)
	}
}

// failRead records that the source ended or failed in the middle of something.
func (r *Reader) failRead(what string, err error) {
	if r.err != nil {
		return
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	r.err = fmt.Errorf("read %s: %w", what, err)
}

// reject records a value that is not allowed. Reading goes on, so that the rest of the message is
// consumed.
func (r *Reader) reject(err error) {
	if r.bad == nil && err != nil {
		r.bad = err
	}
}

// Uint64 reads an integer. what names it in errors, here and in the other methods.
func (r *Reader) Uint64(what string) uint64 {
	if r.err != nil {
		return 0
	}
	b, err := r.src.Peek(8)
	if err != nil {
		r.failRead(what, err)
		return 0
	}
	n := binary.LittleEndian.Uint64(b)
	r.src.Discard(8) // the bytes are there
	return n
}

// Uint32 reads an integer that must fit in 32 bits.
func (r *Reader) Uint32(what string) uint32 {
	n := r.Uint64(what)
	if n > math.MaxUint32 {
		r.fail(what, "%d does not fit in 32 bits", n)
		return 0
	}
	return uint32(n)
}

// Bool reads a boolean. Like Nix it takes every number but 0 for true.
func (r *Reader) Bool(what string) bool { return r.Uint64(what) != 0 }

// String reads a string of at most Limits.String bytes.
func (r *Reader) String(what string) string {
	return r.limited(what, r.limits.String)
}

// limited reads a string of at most limit bytes. No more memory is taken than bytes arrive, times
// two.
func (r *Reader) limited(what string, limit uint64) string {
	n := r.Uint64(what)
	switch {
	case r.err != nil:
		return ""
	case n > limit:
		r.fail(what, "a string of %d bytes is longer than the limit of %d", n, limit)
		return ""
	case !r.charge(what, n):
		return ""
	}
	padded := int(n+7) &^ 7
	if padded > r.src.Size() {
		return r.long(what, int(n))
	}
	b, err := r.src.Peek(padded)
	if err != nil {
		r.failRead(what, err)
		return ""
	}
	if !zeros(b[n:]) {
		r.fail(what, "the padding is not zero")
		return ""
	}
	s := string(b[:n])
	r.src.Discard(padded) // the bytes are there
	return s
}

// long reads n bytes, more than the buffer holds, and their padding.
func (r *Reader) long(what string, n int) string {
	var s strings.Builder
	for s.Len() < n {
		b, err := r.src.Peek(min(n-s.Len(), r.src.Size()))
		if err != nil {
			r.failRead(what, err)
			return ""
		}
		s.Write(b)
		r.src.Discard(len(b)) // the bytes are there
	}
	r.padding(what, uint64(n))
	return s.String()
}

// padding reads the zeros behind a string of n bytes.
func (r *Reader) padding(what string, n uint64) {
	pad := int(-n & 7)
	if r.err != nil || pad == 0 {
		return
	}
	b, err := r.src.Peek(pad)
	if err != nil {
		r.failRead(what, err)
		return
	}
	if !zeros(b) {
		r.fail(what, "the padding is not zero")
		return
	}
	r.src.Discard(pad) // the bytes are there
}

// count reads the number of entries of a list. Each entry takes at least 8 bytes on the wire, so
// a number beyond the message's budget is refused at once.
func (r *Reader) count(what string) int {
	n := r.Uint64(what)
	if r.err == nil && n > r.budget/8 {
		r.fail(what, "a list of %d entries is larger than a message may be", n)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// charge takes n bytes from the message's budget.
func (r *Reader) charge(what string, n uint64) bool {
	if r.err != nil {
		return false
	}
	if n > r.budget {
		r.fail(what, "the message is larger than the limit of %d bytes", r.limits.Message)
		return false
	}
	r.budget -= n
	return true
}

// Strings reads a list of strings.
func (r *Reader) Strings(what string) []string {
	n := r.count(what)
	list := make([]string, 0, min(n, listCap))
	for i := 0; i < n && r.charge(what, 16); i++ {
		s := r.String(what)
		if r.err != nil {
			return nil
		}
		list = append(list, s)
	}
	return list
}

// listCap is the largest capacity that is given to a list before its entries arrive.
const listCap = 64

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
