package workerprotocol

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// FramedReader reads a row of frames as one stream, whose end is the frame of length 0. It reads
// not a byte more than that from the connection, and keeps nothing.
type FramedReader struct {
	r    *Reader
	left uint64 // of the current frame
	err  error
}

var (
	_ io.WriterTo   = (*FramedReader)(nil)
	_ io.ReaderFrom = (*FramedWriter)(nil)
)

// NewFramedReader reads frames from r, which must not be used until the stream has ended.
func NewFramedReader(r *Reader) *FramedReader { return &FramedReader{r: r} }

// next makes sure that there are bytes left in a frame, or sets err.
func (f *FramedReader) next() bool {
	if f.err == nil && f.left == 0 {
		n := f.r.Uint64("frame length")
		switch {
		case f.r.err != nil:
			f.err = f.r.err
		case n > f.r.limits.Frame:
			f.r.fail("frame", "its length of %d bytes is over the limit of %d", n, f.r.limits.Frame)
			f.err = f.r.err
		case n == 0:
			f.err = io.EOF
		default:
			f.left = n
		}
	}
	return f.err == nil
}

// took counts n bytes of the frame, and notes an error of the connection.
func (f *FramedReader) took(n int, err error) {
	f.left -= uint64(n)
	if err != nil {
		f.r.failRead("frame", err)
		f.err = f.r.err
	}
}

// Read reads from the current frame, or the next one.
func (f *FramedReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !f.next() {
		return 0, f.err
	}
	n, err := f.r.src.Read(p[:min(uint64(len(p)), f.left)])
	f.took(n, err)
	if n > 0 {
		return n, nil
	}
	return 0, f.err
}

// WriteTo copies the rest of the stream to w.
func (f *FramedReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	buf := make([]byte, readBufferSize)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Drain skips the rest of the stream, after which the connection stands at what follows it. It
// may be called at any time, also after the end.
func (f *FramedReader) Drain() error {
	for f.next() {
		n, err := f.r.src.Discard(int(min(f.left, 1<<30)))
		f.took(n, err)
	}
	if f.err == io.EOF {
		return nil
	}
	return f.err
}

// maxFrame is the size of the frames that are written: large enough to cost nothing, small enough
// for a peer that reads whole frames into memory, as Nix does.
const maxFrame = 64 << 10

// FramedWriter writes a stream as frames. Write errors are those of the connection.
type FramedWriter struct {
	dst *bufio.Writer
	buf []byte
	// beforeFrame is asked before each frame; an error ends the stream.
	beforeFrame func() error
}

// NewFramedWriter writes frames to w, which must not be used otherwise until Close.
func NewFramedWriter(w *Writer) *FramedWriter {
	return &FramedWriter{dst: w.dst, buf: make([]byte, 0, maxFrame)}
}

// Write adds p to the stream. It is sent in frames of 64 KiB.
func (f *FramedWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(f.buf) == 0 && len(p) >= maxFrame {
			if err := f.frame(p[:maxFrame]); err != nil {
				return total - len(p), err
			}
			p = p[maxFrame:]
			continue
		}
		n := copy(f.buf[len(f.buf):maxFrame], p)
		f.buf = f.buf[:len(f.buf)+n]
		p = p[n:]
		if len(f.buf) == maxFrame {
			if err := f.flush(); err != nil {
				return total - len(p), err
			}
		}
	}
	return total, nil
}

// ReadFrom copies r to the stream.
func (f *FramedWriter) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		n, err := r.Read(f.buf[len(f.buf):maxFrame])
		f.buf = f.buf[:len(f.buf)+n]
		total += int64(n)
		if len(f.buf) == maxFrame {
			if ferr := f.flush(); ferr != nil {
				return total, ferr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (f *FramedWriter) flush() error {
	if len(f.buf) == 0 {
		return nil
	}
	err := f.frame(f.buf)
	f.buf = f.buf[:0]
	return err
}

func (f *FramedWriter) frame(p []byte) error {
	if f.beforeFrame != nil {
		if err := f.beforeFrame(); err != nil {
			return err
		}
	}
	if _, err := f.dst.Write(binary.LittleEndian.AppendUint64(f.dst.AvailableBuffer(), uint64(len(p)))); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if _, err := f.dst.Write(p); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// Close sends what is buffered and the frame of length 0, and flushes. The connection stays open.
func (f *FramedWriter) Close() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.end()
}

// Abandon ends the stream in the middle: it sends the frame of length 0, but not what is
// buffered.
func (f *FramedWriter) Abandon() error {
	f.buf = f.buf[:0]
	return f.end()
}

func (f *FramedWriter) end() error {
	if _, err := f.dst.Write(padding[:]); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if err := f.dst.Flush(); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}
