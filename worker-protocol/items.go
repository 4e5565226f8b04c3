package workerprotocol

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/tvixd/tvixd/storepath"
)

// itemProtocol is how path infos are encoded in the stream of AddMultipleToStore, whatever was
// negotiated.
var itemProtocol = Protocol{Version: pathInfoVersion}

// ItemReader reads the stream of AddMultipleToStore: a number, and as many times a path info and
// an archive.
type ItemReader struct {
	r     *Reader
	dir   storepath.Dir
	left  uint64
	total uint64
	nar   *NARStream

	forgotten int     // the number of items, from the first on, that hold nothing any more
	held      []int64 // bytes that the items after them hold
}

// NewItemReader reads the head of the stream, which is the Data of the request.
func NewItemReader(src io.Reader, dir storepath.Dir, limits Limits) (*ItemReader, error) {
	return newItemReader(src, dir, limits, limits.Budget.Hold())
}

// newItemReader is NewItemReader with what is taken of limits.Budget in hold.
func newItemReader(src io.Reader, dir storepath.Dir, limits Limits, hold *Hold) (*ItemReader, error) {
	r := NewReader(src, limits)
	r.hold = hold
	n := r.Uint64("number of paths")
	if r.err != nil {
		return nil, r.err
	}
	return &ItemReader{r: r, dir: dir, left: n, total: n}, nil
}

// Total is the number of items that the client announced.
func (i *ItemReader) Total() uint64 { return i.total }

// Next skips what is left of the archive before, and reads the next info. The archive that it
// returns is valid until the next call and ends with io.EOF. After the last item Next returns
// io.EOF. An error about a bad value, such as a forbidden name, ends the stream as well.
func (i *ItemReader) Next() (*ValidPathInfo, *NARStream, error) {
	if i.nar != nil {
		if err := i.nar.Drain(); err != nil {
			return nil, nil, err
		}
		i.nar = nil
	}
	if i.left == 0 {
		return nil, nil, io.EOF
	}
	i.left--
	var info ValidPathInfo
	before := i.r.hold.taken()
	if err := ReadMessage(i.r, itemProtocol, i.dir, &info); err != nil {
		i.left = 0
		return nil, nil, fmt.Errorf("path info %d of %d: %w", i.total-i.left, i.total, err)
	}
	i.held = append(i.held, i.r.hold.taken()-before)
	i.nar = NewNARStream(i.r.src)
	return &info, i.nar, nil
}

// Forget tells that of the items, n from the first on are not kept in memory any more, which gives
// back what they have taken of the budget.
func (i *ItemReader) Forget(n int) {
	for ; i.forgotten < n && len(i.held) > 0; i.forgotten++ {
		i.r.hold.Give(i.held[0])
		i.held = i.held[1:]
	}
}

// ItemWriter writes what ItemReader reads.
type ItemWriter struct {
	w    *Writer
	dir  storepath.Dir
	left uint64
}

// NewItemWriter writes the head of a stream of n items to dst.
func NewItemWriter(dst io.Writer, dir storepath.Dir, n uint64) *ItemWriter {
	w := &Writer{dst: bufio.NewWriterSize(dst, writeBufferSize)}
	w.Uint64(n)
	return &ItemWriter{w: w, dir: dir, left: n}
}

// Add writes an item. nar must be one whole archive.
func (i *ItemWriter) Add(info *ValidPathInfo, nar io.Reader) error {
	if i.left == 0 {
		return errors.New("write path info: more items than announced")
	}
	i.left--
	if err := WriteMessage(i.w, itemProtocol, i.dir, info); err != nil {
		return err
	}
	if _, err := i.w.dst.ReadFrom(nar); err != nil {
		return fmt.Errorf("write NAR of '%s': %w", info.Path, err)
	}
	return nil
}

// Close flushes, and fails when items are missing.
func (i *ItemWriter) Close() error {
	if i.left > 0 {
		return fmt.Errorf("write path infos: %d items are missing", i.left)
	}
	return i.w.Flush()
}
