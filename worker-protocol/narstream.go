package workerprotocol

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// NARStream passes one archive through, byte for byte, and ends where the archive ends. It knows
// only enough of the format to find the end: that strings follow each other, that "(" and ")"
// nest, and which words are followed by a name, a target or contents. All else is for the reader
// of the archive to check. It takes constant memory.
type NARStream struct {
	src *bufio.Reader
	// data is what is left of a string that is passed through unseen, with its padding; pending
	// is what was looked at and is still to be passed on.
	data     uint64
	pending  []byte
	pendBuf  [8 + maxNARToken]byte
	nextData bool // the next string is a name, a target, contents or a type
	depth    uint64
	begun    bool // after the magic
	ended    bool
	err      error
}

// NewNARStream reads an archive from src and not a byte more.
func NewNARStream(src *bufio.Reader) *NARStream { return &NARStream{src: src} }

const (
	narMagic    = "nix-archive-1"
	maxNARToken = 16 // padded
)

// Read reads the archive; io.EOF is its end. An archive that breaks off gives
// io.ErrUnexpectedEOF, and one whose end cannot be found ErrProtocol.
func (s *NARStream) Read(p []byte) (int, error) {
	total := 0
	for total < len(p) {
		if total > 0 && len(s.pending) == 0 && s.src.Buffered() < 8+maxNARToken && s.data == 0 {
			break // rather than wait
		}
		n := s.read(p[total:])
		total += n
		if s.err != nil || (n > 0 && s.data > 0 && s.src.Buffered() == 0) {
			break
		}
	}
	if total > 0 || len(p) == 0 {
		return total, nil
	}
	return 0, s.err
}

// read passes on some bytes, or sets err.
func (s *NARStream) read(p []byte) int {
	switch {
	case len(s.pending) > 0:
		n := copy(p, s.pending)
		s.pending = s.pending[n:]
		return n
	case s.err != nil:
	case s.ended:
		s.err = io.EOF
	case s.data > 0:
		n, err := s.src.Read(p[:min(uint64(len(p)), s.data)])
		s.data -= uint64(n)
		s.fail(err)
		return n
	default:
		s.token()
	}
	return 0
}

func (s *NARStream) fail(err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("read NAR: %w", err)
	}
}

// token looks at the next string: of data only at the length.
func (s *NARStream) token() {
	b, err := s.src.Peek(8)
	if err != nil {
		s.fail(err)
		return
	}
	n := binary.LittleEndian.Uint64(b)
	if s.nextData {
		if n >= 1<<63 {
			s.fail(fmt.Errorf("a string of %d bytes: %w", n, ErrProtocol))
			return
		}
		s.nextData = false
		s.data = (n + 7) &^ 7
		s.pass(8)
		return
	}
	if n > maxNARToken {
		s.fail(fmt.Errorf("a string of %d bytes where a word should be: %w", n, ErrProtocol))
		return
	}
	whole := 8 + int(n+7)&^7
	if b, err = s.src.Peek(whole); err != nil {
		s.fail(err)
		return
	}
	if s.word(string(b[8 : 8+n])); s.err == nil {
		s.pass(whole)
	}
}

// pass moves n bytes from the source to pending.
func (s *NARStream) pass(n int) {
	b, err := s.src.Peek(n)
	if err != nil { // they were there before
		s.fail(err)
		return
	}
	s.pending = s.pendBuf[:copy(s.pendBuf[:], b)]
	s.src.Discard(n) // the bytes are there
}

// word follows the archive's structure.
func (s *NARStream) word(w string) {
	if !s.begun {
		if w != narMagic {
			s.fail(fmt.Errorf("it does not begin with the magic: %w", ErrProtocol))
		}
		s.begun = true
		return
	}
	switch w {
	case "(":
		s.depth++
	case ")":
		if s.depth == 0 {
			s.fail(fmt.Errorf("a closing parenthesis without an opening one: %w", ErrProtocol))
			return
		}
		s.depth--
		s.ended = s.depth == 0
	case "type", "name", "target", "contents":
		s.nextData = true
	case "executable", "", "entry", "node":
	default:
		s.fail(fmt.Errorf("unexpected word %q: %w", w, ErrProtocol))
		return
	}
	if s.depth == 0 && !s.ended {
		s.fail(fmt.Errorf("unexpected word %q: %w", w, ErrProtocol))
	}
}

// Drain skips the rest of the archive, after which the source stands behind it.
func (s *NARStream) Drain() error {
	s.pending = nil
	for s.err == nil {
		if s.data == 0 {
			s.read(nil)
			s.pending = nil
			continue
		}
		n, err := s.src.Discard(int(min(s.data, 1<<30)))
		s.data -= uint64(n)
		s.fail(err)
	}
	if s.err == io.EOF {
		return nil
	}
	return s.err
}
