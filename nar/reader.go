package nar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readBuffer is the buffer of a Reader whose source has none.
const readBuffer = 64 << 10

// Reader reads an archive event by event. The first error is final: every
// later call returns it again.
type Reader struct {
	src   *bufio.Reader
	loc   location
	state state
	left  uint64 // contents of the current Regular that are not read yet
	pad   int    // padding after them
	err   error
	// scratch holds one token: a target, a name or a tag, with its padding.
	scratch [MaxTarget + 1]byte
}

type state uint8

const (
	atStart       state = iota // before the magic string
	inContents                 // in a Regular
	betweenTokens              // in a directory, before "entry" or ")"
	atEnd                      // behind the root's last token
)

// NewReader reads an archive from src. When src is a *bufio.Reader, no byte
// behind the archive is consumed; otherwise the Reader brings its own buffer
// and may take more from src than it needs.
func NewReader(src io.Reader) *Reader {
	r := &Reader{}
	r.Reset(src)
	return r
}

// Reset makes r read a new archive, keeping its buffers, as NewReader does.
func (r *Reader) Reset(src io.Reader) {
	if b, ok := src.(*bufio.Reader); ok {
		r.src = b
	} else {
		r.src = bufio.NewReaderSize(src, readBuffer)
	}
	r.loc.reset()
	r.state, r.left, r.pad, r.err = atStart, 0, 0, nil
}

// Next moves to the next event. What was not read of the contents of a Regular
// is skipped. After the end of the root it returns io.EOF; an archive that
// ends early gives an error that is io.ErrUnexpectedEOF.
func (r *Reader) Next() (Header, error) {
	if r.err != nil {
		return Header{}, r.err
	}
	h, err := r.next()
	if err != nil {
		r.err = err
		return Header{}, err
	}
	return h, nil
}

// Path is where the latest event lies in the archive: "/" for the root,
// "/bin/ls" for an entry. It is meant for messages: odd names are quoted.
func (r *Reader) Path() string { return r.loc.path() }

// Read reads contents of the current Regular, and returns io.EOF behind them
// and for other events.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.state != inContents || r.left == 0 {
		return 0, io.EOF
	}
	if uint64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.src.Read(p)
	r.left -= uint64(n)
	if err != nil {
		r.err = r.broken(err)
		return n, r.err
	}
	return n, nil
}

// WriteTo writes the rest of the current Regular's contents to w, straight
// from the source's buffer.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	if r.err != nil {
		return 0, r.err
	}
	var total int64
	for r.state == inContents && r.left > 0 {
		b, err := r.chunk()
		if err != nil {
			r.err = err
			return total, err
		}
		n, err := w.Write(b)
		total += int64(n)
		r.discard(n)
		r.left -= uint64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// chunk is what the source's buffer holds of the current contents, at least a byte.
func (r *Reader) chunk() ([]byte, error) {
	if r.src.Buffered() == 0 {
		if _, err := r.src.Peek(1); err != nil {
			return nil, r.broken(err)
		}
	}
	// What is buffered can be peeked without an error.
	b, _ := r.src.Peek(int(min(r.left, uint64(r.src.Buffered()))))
	return b, nil
}

// discard drops n bytes that are in the source's buffer, which cannot fail.
func (r *Reader) discard(n int) { _, _ = r.src.Discard(n) }

func (r *Reader) next() (Header, error) {
	switch r.state {
	case atStart:
		if err := r.readMagic(); err != nil {
			return Header{}, err
		}
		return r.readNode("")
	case inContents:
		if err := r.finishContents(); err != nil {
			return Header{}, err
		}
	}
	if r.state == atEnd {
		return Header{}, io.EOF
	}
	return r.readEntry()
}

func (r *Reader) readMagic() error {
	if r.match(encMagic) {
		return nil
	}
	got, err := r.token(len(magic))
	if err == nil && string(got) == magic {
		return nil
	}
	if err == nil || errors.Is(err, ErrMalformed) {
		return r.loc.malformed("input doesn't look like a Nix archive")
	}
	return err
}

// readEntry reads the next entry of the innermost directory up to its node's
// own tokens, or the directory's end.
func (r *Reader) readEntry() (Header, error) {
	if !r.match(encEntry) {
		tag, err := r.token(maxTag)
		if err != nil {
			return Header{}, err
		}
		switch string(tag) {
		case ")":
			r.loc.leave()
			h := Header{Kind: EndDirectory, Depth: r.loc.depth()}
			return h, r.closed()
		case "entry":
		default:
			return Header{}, r.loc.malformed("expected tag 'entry' or ')', got %q", tag)
		}
		if err := r.expect("(", "name"); err != nil {
			return Header{}, err
		}
	}
	raw, err := r.token(MaxName)
	if err != nil {
		return Header{}, err
	}
	if !validName(raw) {
		return Header{}, r.loc.malformed("NAR contains invalid file name %q", raw)
	}
	if !r.loc.next(raw) {
		return Header{}, r.loc.malformed("NAR directory is not sorted")
	}
	name := string(raw)
	if !r.match(encNode) {
		if err := r.expect("node"); err != nil {
			return Header{}, err
		}
	}
	if r.loc.depth() >= MaxDepth {
		return Header{}, r.loc.malformed("NAR directory nesting exceeds maximum depth of %d", MaxDepth)
	}
	return r.readNode(name)
}

// readNode reads a node up to its contents or first entry; a link whole.
func (r *Reader) readNode(name string) (Header, error) {
	h := Header{Name: name, Depth: r.loc.depth()}
	kind, err := r.readType(&h)
	if err != nil {
		return Header{}, err
	}
	h.Kind = kind
	switch kind {
	case Regular:
		err = r.openContents(&h)
	case Directory:
		r.loc.enter()
		r.state = betweenTokens
	case Symlink:
		err = r.readTarget(&h)
	}
	return h, err
}

// readType reads a node's tokens before the size of its contents, its first
// entry or its target.
func (r *Reader) readType(h *Header) (Kind, error) {
	switch {
	case r.match(encFile):
		return Regular, nil
	case r.match(encExec):
		h.Executable = true
		return Regular, nil
	case r.match(encDirectory):
		return Directory, nil
	}
	if err := r.expect("(", "type"); err != nil {
		return 0, err
	}
	tag, err := r.token(maxTag)
	if err != nil {
		return 0, err
	}
	switch string(tag) {
	case "regular":
		return Regular, r.readExecutable(h)
	case "directory":
		return Directory, nil
	case "symlink":
		return Symlink, r.expect("target")
	}
	return 0, r.loc.malformed("unknown file type %q", tag)
}

func (r *Reader) readExecutable(h *Header) error {
	tag, err := r.token(maxTag)
	if err != nil {
		return err
	}
	if string(tag) == "executable" {
		h.Executable = true
		marker, err := r.token(maxTag)
		if err != nil {
			return err
		}
		if len(marker) != 0 {
			return r.loc.malformed("executable marker has non-empty value")
		}
		return r.expect("contents")
	}
	if string(tag) != "contents" {
		return r.loc.malformed("expected tag 'contents', got %q", tag)
	}
	return nil
}

func (r *Reader) openContents(h *Header) error {
	size, err := r.length()
	if err != nil {
		return err
	}
	if size > maxSize {
		return r.loc.malformed("contents of %d bytes are too long", size)
	}
	h.Size = size
	r.state, r.left, r.pad = inContents, size, padding(size)
	return nil
}

// finishContents skips to the end of a Regular and closes it.
func (r *Reader) finishContents() error {
	for r.left > 0 {
		n, err := r.src.Discard(int(min(r.left, 1<<30)))
		r.left -= uint64(n)
		if err != nil {
			return r.broken(err)
		}
	}
	if err := r.readPadding(r.pad); err != nil {
		return err
	}
	return r.closeNode()
}

func (r *Reader) readTarget(h *Header) error {
	target, err := r.token(MaxTarget)
	if err != nil {
		return err
	}
	h.Target = string(target)
	if !validTarget(h.Target) {
		return r.loc.malformed("NAR contains invalid symlink target")
	}
	return r.closeNode()
}

// closeNode reads the ")" of a node that is not a directory.
func (r *Reader) closeNode() error {
	if r.loc.depth() > 0 && r.match(encCloseBoth) {
		r.state = betweenTokens
		return nil
	}
	if err := r.expect(")"); err != nil {
		return err
	}
	return r.closed()
}

// closed reads what stands behind a node: the ")" of its entry, or nothing
// behind the root.
func (r *Reader) closed() error {
	if r.loc.depth() == 0 {
		r.state = atEnd
		return nil
	}
	r.state = betweenTokens
	return r.expect(")")
}

// match consumes enc when exactly that lies in the source's buffer. It is the
// short cut for the usual runs of tokens: it never waits for input, and where
// it does not apply the tokens are read one by one.
func (r *Reader) match(enc string) bool {
	if r.src.Buffered() < len(enc) {
		return false
	}
	b, _ := r.src.Peek(len(enc))
	if string(b) != enc {
		return false
	}
	r.discard(len(enc))
	return true
}

// expect reads the given tokens.
func (r *Reader) expect(tags ...string) error {
	for _, want := range tags {
		got, err := r.token(maxTag)
		if err != nil {
			return err
		}
		if string(got) != want {
			return r.loc.malformed("expected tag '%s', got %q", want, got)
		}
	}
	return nil
}

// token reads a string of at most limit bytes, which is good until the next token.
func (r *Reader) token(limit int) ([]byte, error) {
	size, err := r.length()
	if err != nil {
		return nil, err
	}
	if size > uint64(limit) {
		return nil, r.loc.malformed("string of %d bytes is too long, expected at most %d", size, limit)
	}
	b := r.scratch[:size]
	if _, err := io.ReadFull(r.src, b); err != nil {
		return nil, r.broken(err)
	}
	return b, r.readPadding(padding(size))
}

func (r *Reader) length() (uint64, error) {
	b, err := r.src.Peek(8)
	if err != nil {
		return 0, r.broken(err)
	}
	n := binary.LittleEndian.Uint64(b)
	r.discard(8)
	return n, nil
}

func (r *Reader) readPadding(n int) error {
	if n == 0 {
		return nil
	}
	b, err := r.src.Peek(n)
	if err != nil {
		return r.broken(err)
	}
	for _, c := range b {
		if c != 0 {
			return r.loc.malformed("non-zero padding")
		}
	}
	r.discard(n)
	return nil
}

// broken wraps an error of the source.
func (r *Reader) broken(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("NAR: %s: %w", r.loc.path(), err)
}
