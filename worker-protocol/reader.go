package workerprotocol

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"unsafe"
)

// ErrProtocol is what every error about a peer that breaks the protocol's grammar is, in the
// sense of errors.Is. The connection cannot be used after it.
var ErrProtocol = errors.New("worker protocol violated")

// Limits bounds what one message may make the reader keep. The zero value stands for the
// defaults in the fields' descriptions.
type Limits struct {
	// String is the longest string in bytes that is no text, such as a name, a hash or a path;
	// 64 KiB.
	String uint64
	// Text is the longest text in bytes: contents, an argument or environment value of a builder,
	// a message for the user; 16 MiB.
	Text uint64
	// Message is the number of bytes that all strings and list entries of one message may
	// occupy; 64 MiB.
	Message uint64
	// Frame is the longest frame of a framed stream in bytes; 4 GiB less one, as in Nix. Frames
	// are streamed, so the limit costs no memory.
	Frame uint64
	// Budget is shared with other connections: what messages occupy is taken from it as it
	// arrives, beyond FreeBytes. Nil is none.
	Budget *Budget
}

func (l Limits) withDefaults() Limits {
	if l.String == 0 {
		l.String = 64 << 10
	}
	if l.Text == 0 {
		l.Text = 16 << 20
	}
	if l.Message == 0 {
		l.Message = 64 << 20
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
	hold   *Hold  // of limits.Budget
	err    error  // the first violation of the grammar or failure to read
	bad    error  // the first value that is well-formed but not allowed

	// skipping tells that the budget of all connections was spent in the middle of this message,
	// the rest of which is read to be thrown away: strings are empty and lists have one entry.
	skipping bool
}

// NewReader makes a Reader of src.
func NewReader(src io.Reader, limits Limits) *Reader {
	r := &Reader{src: bufio.NewReaderSize(src, readBufferSize), limits: limits.withDefaults(), hold: limits.Budget.Hold()}
	r.beginMessage()
	return r
}

// beginMessage renews the memory that a message may occupy.
func (r *Reader) beginMessage() {
	r.budget = r.limits.Message
	r.bad = nil
	r.skipping = false
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

// Text reads a string of at most Limits.Text bytes.
func (r *Reader) Text(what string) string {
	return r.limited(what, r.limits.Text)
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
	s := ""
	if r.occupy(what, int(n)) {
		s = string(b[:n])
	}
	r.src.Discard(padded) // the bytes are there
	return s
}

// long reads n bytes, more than the buffer holds, and their padding.
func (r *Reader) long(what string, n int) string {
	var s []byte
	for left := n; left > 0; {
		b, err := r.src.Peek(min(left, r.src.Size()))
		if err != nil {
			r.failRead(what, err)
			return ""
		}
		if len(s)+len(b) > cap(s) {
			size := min(n, 2*cap(s)+len(b))
			if r.occupy(what, size-cap(s)) {
				s = append(make([]byte, 0, size), s...)
			}
		}
		if r.skipping {
			s = nil
		} else {
			s = append(s, b...)
		}
		left -= len(b)
		r.src.Discard(len(b)) // the bytes are there
	}
	r.padding(what, uint64(n))
	return unsafe.String(unsafe.SliceData(s), len(s)) // nobody has s any more
}

// occupy takes n bytes from the budget of all connections. Once it is spent the rest of the
// message is skipped, and the message is not allowed.
func (r *Reader) occupy(what string, n int) bool {
	if r.skipping {
		return false
	}
	if err := r.hold.Take(int64(n)); err != nil {
		r.reject(fmt.Errorf("read %s: %w", what, err))
		r.skipping = true
		r.hold.Release() // what was read of the message is of no use
	}
	return !r.skipping
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

// entry takes n bytes, which an entry of a list occupies besides its strings, from the message's
// budget and that of all connections. It is false when reading cannot go on.
func (r *Reader) entry(what string, n uint64) bool {
	if !r.charge(what, n) {
		return false
	}
	r.occupy(what, int(n))
	return true
}

// Strings reads a list of strings.
func (r *Reader) Strings(what string) []string { return r.strings(what, r.limits.String) }

// Texts reads a list of texts.
func (r *Reader) Texts(what string) []string { return r.strings(what, r.limits.Text) }

func (r *Reader) strings(what string, limit uint64) []string {
	n := r.count(what)
	list := make([]string, 0, min(n, listCap))
	for i := 0; i < n && r.entry(what, 16); i++ {
		s := r.limited(what, limit)
		if r.err != nil {
			return nil
		}
		if !r.skipping {
			list = append(list, s)
		}
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
