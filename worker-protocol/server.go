package workerprotocol

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tvixd/tvixd/storepath"
)

// ServerOptions says how a server presents itself, and what it endures. The zero value serves
// /nix/store without features.
type ServerOptions struct {
	// Dir is the store folder in all paths; storepath.DefaultDir if empty.
	Dir storepath.Dir
	// Features are those that are offered; DaemonFeatures on a daemon's socket.
	Features Features
	// DaemonVersion is told to clients of 1.33 and later: the version of Nix whose behaviour is
	// offered, "2.34.8" for example.
	DaemonVersion string
	// Trust is told to clients of 1.35 and later.
	Trust Trust
	// Admit, if set, is asked at the end of the handshake. Its error is sent to the client, and
	// the connection is not served.
	Admit func(Protocol) error
	// Limits bounds requests. What a request has taken of Limits.Budget is given back by Finish,
	// EndData, Fail and Close.
	Limits Limits
	// LogBuffer is the number of bytes of log messages that wait for a slow client; 1 MiB if 0.
	LogBuffer int
	// LogStall is how long the client may take no log message before further ones are dropped
	// instead of waiting for room in the buffer; 2 s if 0, no waiting at all if negative.
	LogStall time.Duration
	// WriteTimeout ends the connection when the client takes not a single byte for so long while
	// something is to be written to it; 0 is for ever. It needs a net.Conn.
	WriteTimeout time.Duration
}

// ErrUnusable is returned by ReadOp when an earlier error left the connection in the middle of a
// message. It has been told to the client, and the connection is to be closed.
var ErrUnusable = errors.New("connection is unusable after an error")

// ServerConn is the server's side of a connection. One goroutine goes through the operations:
//
//	op, err := conn.ReadOp()
//	err = conn.ReadRequest(&request)   // or any error: conn.Fail(err)
//	conn.Data()                        // where data follows the request
//	conn.Finish(&response)             // or conn.Fail(err)
//
// Between ReadRequest and Finish or Fail any number of goroutines may send log messages; what they
// send at other times is kept for the next operation. The other methods are for the one goroutine,
// except Close, which may be called by all.
type ServerConn struct {
	rw    io.ReadWriteCloser
	opts  ServerOptions
	proto Protocol
	r     *Reader
	w     *Writer
	queue *logQueue

	verbosity atomic.Uint32
	state     serverState
	data      *Data
	broken    bool

	closeOnce sync.Once
	closeErr  error
}

type serverState uint8

const (
	stateIdle      serverState = iota // before an operation number
	stateRequest                      // before the request
	stateWorking                      // after the request: log messages may flow
	stateStreaming                    // after a response that bare data follows
)

// Accept performs the handshake on rw, which the connection owns from now on: on an error it is
// closed. The error is ErrProtocol when the peer is no client of ours; a version that is too old
// is one, too.
func Accept(rw io.ReadWriteCloser, opts ServerOptions) (*ServerConn, error) {
	if opts.Dir == "" {
		opts.Dir = storepath.DefaultDir
	}
	if opts.LogBuffer == 0 {
		opts.LogBuffer = 1 << 20
	}
	if opts.LogStall == 0 {
		opts.LogStall = 2 * time.Second
	}
	c := &ServerConn{rw: rw, opts: opts, r: NewReader(rw, opts.Limits)}
	c.w = NewWriter(&deadlineWriter{rw: rw, timeout: opts.WriteTimeout})
	c.r.budget = handshakeBudget
	c.verbosity.Store(uint32(LevelVomit))
	if err := c.handshake(); err != nil {
		rw.Close() // the handshake's error counts
		return nil, err
	}
	c.queue = newLogQueue(opts.LogBuffer, opts.LogStall, c.writeLog, c.lostMessage)
	go c.queue.run()
	return c, nil
}

func (c *ServerConn) writer() *coder {
	return &coder{Protocol: c.proto, dir: c.opts.Dir, w: c.w}
}

func (c *ServerConn) flush() error {
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("write to client: %w", err)
	}
	return nil
}

// Protocol is what was negotiated.
func (c *ServerConn) Protocol() Protocol { return c.proto }

// Dir is the store folder.
func (c *ServerConn) Dir() storepath.Dir { return c.opts.Dir }

// Items reads the items that follow an AddMultipleToStoreRequest.
func (c *ServerConn) Items() (*ItemReader, error) {
	return newItemReader(c.data, c.opts.Dir, c.r.limits, c.r.hold)
}

// ReadOp waits for the number of the next operation. It returns io.EOF when the client has left
// between operations, and ErrUnusable when an error before allows no further ones.
func (c *ServerConn) ReadOp() (Op, error) {
	if c.broken {
		return 0, ErrUnusable
	}
	if c.state != stateIdle {
		return 0, errors.New("read operation: the one before is not finished")
	}
	if _, err := c.r.src.Peek(1); err == io.EOF {
		return 0, io.EOF
	}
	op := Op(c.r.Uint32("operation"))
	if c.r.err != nil {
		return 0, c.r.err
	}
	c.state = stateRequest
	return op, nil
}

// ReadRequest reads the request of the operation, and from then on log messages are sent. After
// an error the caller calls Fail as after any other.
func (c *ServerConn) ReadRequest(m Message) error {
	if c.state != stateRequest {
		return errors.New("read request: no operation was read")
	}
	err := ReadMessage(c.r, c.proto, c.opts.Dir, m)
	if c.r.err != nil {
		return err
	}
	c.state = stateWorking
	if dm, ok := m.(dataMessage); ok {
		c.data = newData(c, dm.dataForm(c.proto))
	}
	c.queue.begin()
	return err
}

// Data is the data behind the request, or nil when none follows.
func (c *ServerConn) Data() *Data { return c.data }

// Finish ends the operation: it skips what is left of the data, sends all log messages and then
// the response.
func (c *ServerConn) Finish(response Message) error {
	if err := c.last(response); err != nil {
		return err
	}
	c.state = stateIdle
	defer c.r.hold.Release()
	return c.flush()
}

// FinishWithData ends the operation with a response that bare data follows, which the caller
// writes to the returned writer before it calls EndData. Should the data fail in the middle, there
// is no way to tell the client but to close the connection.
func (c *ServerConn) FinishWithData(response Message) (io.Writer, error) {
	if err := c.last(response); err != nil {
		return nil, err
	}
	c.state = stateStreaming
	return c.w.dst, nil
}

// EndData ends the data after FinishWithData.
func (c *ServerConn) EndData() error {
	if c.state != stateStreaming {
		return errors.New("end data: there is none")
	}
	c.state = stateIdle
	defer c.r.hold.Release()
	return c.flush()
}

// last ends the log and writes the response to the buffer.
func (c *ServerConn) last(response Message) error {
	if c.state != stateWorking {
		return errors.New("finish operation: none is running")
	}
	if m, ok := response.(checked); ok {
		if err := m.check(c.proto); err != nil {
			return c.Fail(err)
		}
	}
	if err := c.drain(); err != nil {
		return err
	}
	if err := c.queue.end(); err != nil {
		return err
	}
	c.w.Uint64(stderrLast)
	return WriteMessage(c.w, c.proto, c.opts.Dir, response)
}

// drain skips what is left of the request's data.
func (c *ServerConn) drain() error {
	if c.data == nil {
		return nil
	}
	err := c.data.Drain()
	c.data = nil
	if err != nil {
		c.broken = true
	}
	return err
}

// Fail ends the operation with an error for the client, an *Error if err wraps one. The error is
// sent before what is left of the data is skipped, so that the client may stop sending; but a
// client that sends a bare archive neither looks for an answer nor can it stop, and gets the error
// afterwards. When the request or the data could not be read, the connection is unusable
// afterwards, which ReadOp tells. The returned error is one of the connection itself.
func (c *ServerConn) Fail(err error) error {
	switch c.state {
	case stateIdle:
		return errors.New("fail operation: none is running")
	case stateStreaming:
		c.broken = true
		return errors.New("fail operation: its response was sent already")
	case stateRequest:
		c.broken = true // its length is not known
		c.queue.begin()
	}
	c.state = stateIdle
	c.r.hold.Release()
	var drainErr error
	if c.data != nil && c.data.form == dataBare {
		drainErr = c.drain()
	}
	if qerr := c.queue.end(); qerr != nil {
		c.broken = true
		return qerr
	}
	c.w.Uint64(stderrError)
	errorOf(err).code(c.writer())
	if err := c.flush(); err != nil {
		c.broken = true
		return err
	}
	if drainErr != nil {
		return drainErr
	}
	return c.drain()
}

// Close closes the connection and ends the goroutine that writes log messages. Goroutines that
// are blocked in another method return with an error.
func (c *ServerConn) Close() error {
	c.closeOnce.Do(func() {
		c.queue.close()
		c.r.hold.Close()
		c.closeErr = c.rw.Close()
		<-c.queue.done
	})
	return c.closeErr
}
