package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/tvixd/tvixd/daemon/nixconf"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// client is a connection whose owner was judged.
type client struct {
	conn    *net.UnixConn
	trusted bool
	refused error // told to the client at the end of the handshake
	logger  *slog.Logger
}

// session is one client's connection after the handshake.
type session struct {
	d       *Daemon
	conn    *wp.ServerConn
	proto   wp.Protocol
	trusted bool
	config  *nixconf.Config // of this client alone
	lease   *store.Lease
	leased  *wp.Hold // what paths in lease take
	keys    keyring  // of config
	logger  *slog.Logger
}

// handshakeTime bounds how long a client may take to introduce itself, so that one that says
// nothing does not stay for ever.
const handshakeTime = time.Minute

// lastWordTime is what a client has to read that its operation was broken off.
const lastWordTime = 2 * time.Second

// serve goes through a client's operations until it leaves, and closes the connection.
func (d *Daemon) serve(c client) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		c.conn.Close()
		return
	}
	_ = c.conn.SetDeadline(time.Now().Add(handshakeTime))
	trust := wp.NotTrusted
	if c.trusted {
		trust = wp.Trusted
	}
	ctx, cancel := context.WithCancelCause(d.stop)
	defer cancel(nil)
	closeEarly := context.AfterFunc(ctx, func() { c.conn.Close() })
	conn, err := wp.Accept(c.conn, wp.ServerOptions{
		Dir:           d.opts.Store.Dir(),
		Features:      features,
		DaemonVersion: d.opts.Version,
		Trust:         trust,
		Admit:         func(wp.Protocol) error { return c.refused },
		Limits:        wp.Limits{Budget: d.budget},
	})
	closeEarly()
	if err != nil {
		c.logger.Info("a client was not served", "error", err)
		return
	}
	defer conn.Close()
	_ = c.conn.SetDeadline(time.Time{})
	defer d.hangup.watch(raw, cancel)()
	// Whoever waits for the client is woken up when it is to go; a last word may still be said.
	defer context.AfterFunc(ctx, func() {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
		_ = c.conn.SetWriteDeadline(time.Now().Add(lastWordTime))
	})()
	s := &session{
		d:       d,
		conn:    conn,
		proto:   conn.Protocol(),
		trusted: c.trusted,
		config:  d.opts.Config.Clone(),
		lease:   d.opts.Store.NewLease(),
		leased:  d.leased.Hold(),
		keys:    d.keys,
		logger:  c.logger,
	}
	defer s.leased.Close()
	defer s.lease.Release()
	d.connected.Add(1)
	defer d.connected.Add(-1)
	count, err := s.run(ctx)
	switch {
	case err == nil:
		c.logger.Debug("a client left", "operations", count)
	case ctx.Err() != nil:
		c.logger.Debug("a client was dropped", "operations", count, "cause", context.Cause(ctx))
	default:
		c.logger.Info("a connection ended with an error", "operations", count, "error", err)
	}
}

// features are those of the protocol's that the handlers know what to do with.
const features = wp.FeatureRealisationWithPath

// run performs operations until the client leaves or the connection cannot be used any more.
func (s *session) run(ctx context.Context) (operations int, err error) {
	for ; ; operations++ {
		op, err := s.conn.ReadOp()
		switch {
		case err == io.EOF, errors.Is(err, wp.ErrUnusable):
			return operations, nil
		case err != nil:
			return operations, err
		}
		if err := s.perform(ctx, op); err != nil {
			return operations, fmt.Errorf("%v: %w", op, err)
		}
		if ctx.Err() != nil {
			return operations, context.Cause(ctx)
		}
	}
}

// perform serves one operation. What goes wrong in it is told to the client; the error is one of
// the connection.
func (s *session) perform(ctx context.Context, op wp.Op) (err error) {
	defer func() {
		// A mistake of ours must cost this client its connection, not the others theirs.
		if cause := recover(); cause != nil {
			s.logger.Error("an operation panicked", "operation", op, "cause", cause, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	h, ok := s.d.ops[op]
	if ok {
		return h(ctx, s)
	}
	info := op.Info()
	if info.NewRequest == nil {
		return s.conn.Fail(unknownOperation(info))
	}
	// Its request is known, so the connection can go on behind it.
	if err := s.conn.ReadRequest(info.NewRequest()); err != nil {
		return s.conn.Fail(err)
	}
	return s.conn.Fail(fmt.Errorf("operation %v is not supported", op))
}

func unknownOperation(info wp.OpInfo) error {
	switch info.Status {
	case wp.StatusRemoved:
		return fmt.Errorf("operation %s (%d) is not supported any more", info.Name, info.Op)
	case wp.StatusReserved:
		return fmt.Errorf("operation %s (%d) is not supported", info.Name, info.Op)
	default:
		return fmt.Errorf("invalid operation %d", info.Op)
	}
}

// handler serves one operation, from the request to the response.
type handler func(ctx context.Context, s *session) error

// answer makes a handler of a function that knows nothing of the connection's states.
func answer[Q, A any, PQ message[Q], PA message[A]](f func(context.Context, *session, PQ) (PA, error)) handler {
	return func(ctx context.Context, s *session) error {
		request := PQ(new(Q))
		if err := s.conn.ReadRequest(request); err != nil {
			return s.conn.Fail(err)
		}
		response, err := f(ctx, s, request)
		if err != nil {
			return s.conn.Fail(s.explain(ctx, err))
		}
		return s.conn.Finish(response)
	}
}

type message[T any] interface {
	*T
	wp.Message
}

// errStopping is told to clients whose operations are broken off by Close.
var errStopping = errors.New("the daemon is being stopped")

// explain is err as the client is to see it.
func (s *session) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errHungUp) {
		return errStopping
	}
	return err
}

// keep leases a path that the client names, as long as there is room for it.
func (s *session) keep(p storepath.Path) error {
	if s.lease.Has(p) {
		return nil
	}
	if err := s.leased.Take(leaseBytes); err != nil {
		return fmt.Errorf("keep path '%s': %w", s.printPath(p), err)
	}
	s.lease.Add(p)
	return nil
}

func (s *session) store() *store.Store { return s.d.opts.Store }

// printPath is a path as users see it.
func (s *session) printPath(p storepath.Path) string { return s.store().Dir().Join(p) }
