package workerprotocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/tvixd/tvixd/storepath"
)

// ClientOptions says how a client presents itself. The zero value speaks the newest version
// without features, for /nix/store.
type ClientOptions struct {
	// Dir is the store folder in all paths; storepath.DefaultDir if empty.
	Dir storepath.Dir
	// Version is announced to the server; MaxVersion if 0. It must not be less than MinVersion.
	Version Version
	// Features are those that are asked for; AllFeatures is what a nix client asks for.
	Features Features
	// Log gets the server's log messages; nil drops them. It is called while an operation
	// runs, not concurrently, and must not call the Client.
	Log func(LogMessage)
	// Limits bounds responses. Its default for a message is 4 GiB, for a daemon may be asked for
	// all paths of a large store.
	Limits Limits
}

// ErrUnsupported is what an operation returns that the negotiated protocol does not have.
var ErrUnsupported = errors.New("operation is not supported by the negotiated protocol")

// Client is the client's side of a connection. Operations run one at a time; concurrent calls
// wait for each other. Errors that the server sends are *Error and leave the client usable; after
// any other failure of the connection all calls fail.
type Client struct {
	opts  ClientOptions
	proto Protocol
	info  HandshakeInfo

	mu     sync.Mutex // held while an operation runs; guards r, w and broken
	rw     io.ReadWriteCloser
	r      *Reader
	w      *Writer
	broken error
}

// Dial connects to a daemon's socket. The context bounds the connection's set-up only.
func Dial(ctx context.Context, socket string, opts ClientOptions) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to daemon: %w", err)
	}
	return NewClient(ctx, conn, opts)
}

// NewClient performs the handshake on rw, which the client owns from now on: on an error it is
// closed. The context bounds the handshake only.
func NewClient(ctx context.Context, rw io.ReadWriteCloser, opts ClientOptions) (*Client, error) {
	if opts.Dir == "" {
		opts.Dir = storepath.DefaultDir
	}
	if opts.Version == 0 {
		opts.Version = MaxVersion
	}
	if opts.Limits.Message == 0 {
		opts.Limits.Message = 4 << 30
	}
	c := &Client{opts: opts, rw: rw, r: NewReader(rw, opts.Limits), w: NewWriter(rw)}
	err := c.guard(ctx, c.handshake)
	if err != nil {
		rw.Close() // the handshake's error counts
		return nil, fmt.Errorf("open connection to daemon: %w", err)
	}
	return c, nil
}

func (c *Client) handshake() error {
	c.w.Uint64(clientMagic)
	c.w.Uint64(uint64(c.opts.Version))
	if err := c.w.Flush(); err != nil {
		return err
	}
	if magic := c.r.Uint64("server magic"); c.r.err == nil && magic != serverMagic {
		c.r.fail("server magic", "%#x is not that of a Nix daemon", magic)
	}
	server := versionFromWire(c.r.Uint64("server version"))
	if c.r.err == nil && (server.Major() != MaxVersion.Major() || server < MinVersion) {
		c.r.fail("server version", "%s is not supported", server)
	}
	c.proto.Version = min(server, c.opts.Version)
	if c.r.err == nil && c.proto.since(38) {
		c.w.Strings(c.opts.Features.Names())
		if err := c.w.Flush(); err != nil {
			return err
		}
		c.proto.Features = ParseFeatures(c.r.Strings("server features")) & c.opts.Features
	}
	if c.r.err != nil {
		return c.r.err
	}
	c.w.Uint64(0) // no CPU affinity
	c.w.Uint64(0) // no reserved space
	if err := c.w.Flush(); err != nil {
		return err
	}
	if err := c.read(&c.info); err != nil {
		return err
	}
	return c.processLog(nil)
}

// Protocol is what was negotiated.
func (c *Client) Protocol() Protocol { return c.proto }

// Info is what the server told of itself.
func (c *Client) Info() HandshakeInfo { return c.info }

// Close closes the connection. A call that is under way fails.
func (c *Client) Close() error { return c.rw.Close() }

// guard runs f and closes the connection when ctx ends before f does, as the protocol knows no
// other way to stop an operation.
func (c *Client) guard(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.rw.Close() })
	err := f()
	if !stop() && err != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// do runs one operation: it writes the request's number, and f does the rest.
func (c *Client) do(ctx context.Context, op Op, request Message, f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return fmt.Errorf("%s: connection is unusable after: %w", op, c.broken)
	}
	if since := op.Info().Since; c.proto.Version < since {
		return fmt.Errorf("%s: %w %s, but since %s", op, ErrUnsupported, c.proto, since)
	}
	if m, ok := request.(checked); ok {
		if err := m.check(c.proto); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	err := c.guard(ctx, func() error {
		c.w.Uint64(uint64(op))
		if err := WriteMessage(c.w, c.proto, c.opts.Dir, request); err != nil {
			return err
		}
		return f()
	})
	var remote *Error
	var value *valueError
	if err != nil && !errors.As(err, &remote) && !errors.As(err, &value) {
		c.broken = err
		c.rw.Close() // it is given up
	}
	if err != nil && remote == nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return err
}

// valueError is a response that was read to its end but holds something that is not allowed.
type valueError struct{ err error }

func (e *valueError) Error() string { return e.err.Error() }
func (e *valueError) Unwrap() error { return e.err }

// read reads a message from the server.
func (c *Client) read(m Message) error {
	err := ReadMessage(c.r, c.proto, c.opts.Dir, m)
	if err != nil && c.r.err == nil {
		return &valueError{err}
	}
	return err
}

// call runs an operation without data.
func (c *Client) call(ctx context.Context, op Op, request, response Message) error {
	return c.do(ctx, op, request, func() error {
		if err := c.w.Flush(); err != nil {
			return err
		}
		if err := c.processLog(nil); err != nil {
			return err
		}
		return c.read(response)
	})
}

// upload runs an operation with data, which write makes. In the tunnelled form src is read
// instead.
func (c *Client) upload(ctx context.Context, op Op, request dataMessage, response Message, src io.Reader, write func(io.Writer) error) error {
	return c.do(ctx, op, request, func() error {
		if err := c.w.Flush(); err != nil {
			return err
		}
		var err error
		switch request.dataForm(c.proto) {
		case dataTunneled:
			err = c.processLog(src)
		case dataBare:
			err = c.sendWhileReading(func(func() error) error {
				if err := write(c.w.dst); err != nil {
					return err
				}
				return c.w.Flush()
			})
		default:
			err = c.sendWhileReading(func(stop func() error) error { return sendFrames(c.w, stop, write) })
		}
		if err != nil {
			return err
		}
		return c.read(response)
	})
}

// errAnswered stops an upload that the server has refused.
var errAnswered = errors.New("the server has answered already")

// sendFrames sends what write writes in frames. When stop reports errAnswered before a frame, be it
// the last one, the stream ends there, which is no error.
func sendFrames(w *Writer, stop func() error, write func(io.Writer) error) error {
	frames := NewFramedWriter(w)
	frames.beforeFrame = stop
	err := write(frames)
	if err == nil {
		err = frames.Close()
	}
	if errors.Is(err, errAnswered) {
		return frames.Abandon()
	}
	return err
}

// sendWhileReading sends data while the server's log messages are read, until the server has
// answered. send may ask its argument whether that has happened already.
func (c *Client) sendWhileReading(send func(stop func() error) error) error {
	answered := make(chan struct{})
	var answer error
	go func() {
		answer = c.processLog(nil)
		close(answered)
	}()
	sendErr := send(func() error {
		select {
		case <-answered:
			return errAnswered
		default:
			return nil
		}
	})
	if sendErr == nil {
		<-answered
		return answer
	}
	// Half of the data must not be taken for all of it. Whoever hung up on us may still have told
	// why.
	hungUp := c.w.Flush() != nil
	c.broken = sendErr
	if cw, ok := c.rw.(interface{ CloseWrite() error }); !ok || cw.CloseWrite() != nil {
		c.rw.Close() // it is given up
	}
	<-answered
	var remote *Error
	if hungUp && errors.As(answer, &remote) {
		return answer
	}
	return sendErr
}

// maxTunnelChunk bounds what is sent for one question of the server.
const maxTunnelChunk = 1 << 20

// processLog handles what the server sends until it is done, and returns its error, if it sends
// one. Questions for data are answered from src.
func (c *Client) processLog(src io.Reader) error {
	for {
		c.r.beginMessage()
		tag := c.r.Uint64("log message")
		if c.r.err != nil {
			return c.r.err
		}
		switch tag {
		case stderrLast:
			return nil
		case stderrError:
			e := &Error{}
			if err := c.read(e); err != nil {
				return err
			}
			return e
		case stderrRead:
			if err := c.answer(src); err != nil {
				return err
			}
		case stderrNext, stderrStartActivity, stderrStopActivity, stderrResult:
			if err := c.logMessage(tag); err != nil {
				return err
			}
		case stderrWrite:
			c.r.fail("log message", "data was sent where none was asked for")
		default:
			c.r.fail("log message", "the tag %#x is not known", tag)
		}
		if c.r.err != nil {
			return c.r.err
		}
	}
}

// logMessage reads the message with the given tag and hands it on.
func (c *Client) logMessage(tag uint64) error {
	var m LogMessage
	for kind, t := range logTags {
		if t == tag {
			m.Kind = LogKind(kind)
		}
	}
	if err := c.read(&m); err != nil {
		return err
	}
	if c.opts.Log != nil {
		c.opts.Log(m)
	}
	return nil
}

// answer sends a piece of src.
func (c *Client) answer(src io.Reader) error {
	n := c.r.Uint64("number of bytes that the server wants")
	if c.r.err != nil {
		return c.r.err
	}
	if src == nil {
		c.r.fail("log message", "the server wants data where there is none")
		return c.r.err
	}
	buf := make([]byte, min(n, maxTunnelChunk))
	got, err := io.ReadAtLeast(src, buf, min(1, len(buf)))
	if err != nil && err != io.EOF {
		return fmt.Errorf("read data to send: %w", err)
	}
	c.w.Bytes(buf[:got])
	return c.w.Flush()
}
