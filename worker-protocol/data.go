package workerprotocol

import (
	"bufio"
	"io"
	"math"
)

// Data is the data behind a request: an archive, a text, a log or the items of
// AddMultipleToStore. It reads as one stream that ends with io.EOF, in whichever way the client's
// version sends it.
type Data struct {
	stream interface {
		io.Reader
		Drain() error
	}
	form dataForm
}

func newData(c *ServerConn, form dataForm) *Data {
	d := &Data{form: form}
	switch form {
	case dataFramed:
		d.stream = NewFramedReader(c.r)
	case dataTunneled:
		src := bufio.NewReaderSize(&tunnelReader{c}, readBufferSize)
		d.stream = NewNARStream(src)
	case dataBare:
		d.stream = NewNARStream(c.r.src)
	default:
		return nil
	}
	return d
}

// IsNAR reports whether the data is an archive because the client's version sends nothing else,
// and not whatever the request says.
func (d *Data) IsNAR() bool { return d.form != dataFramed }

// Read reads the data.
func (d *Data) Read(p []byte) (int, error) { return d.stream.Read(p) }

// Drain skips the rest of the data. Finish and Fail do it themselves.
func (d *Data) Drain() error {
	if d.form == dataTunneled {
		return nil // what was not asked for is not sent
	}
	return d.stream.Drain()
}

// tunnelReader asks the client for data by messages in the log stream, as much as the reader has
// room for. The client answers with a string that is shorter or as long.
type tunnelReader struct{ c *ServerConn }

func (t *tunnelReader) Read(p []byte) (int, error) {
	r := t.c.r
	want := uint64(len(p))
	t.c.queue.put(classMust, 0, progressKey{}, encode(t.c.proto, stderrRead, func(c *coder) { c.uint64("", &want) }))
	n := r.Uint64("data of the client")
	if r.err == nil && n > want {
		r.fail("data of the client", "%d bytes were sent where %d were asked for", n, want)
	}
	if r.err != nil {
		return 0, r.err
	}
	if n == 0 || n > math.MaxInt32 {
		return 0, io.ErrUnexpectedEOF
	}
	if _, err := io.ReadFull(r.src, p[:n]); err != nil {
		r.failRead("data of the client", err)
		return 0, r.err
	}
	r.padding("data of the client", n)
	return int(n), r.err
}
