// Package daemon serves a store to Nix clients: it listens, decides who may do what, and has
// one short handler for each operation of the worker protocol.
//
//	socket ─▶ Serve ─▶ session: trust, settings, lease ─▶ handlers ─▶ store, build, gc
//	                      ▲
//	          hangupWatch ┘ ends the operation of a client that has gone
//
// Every client has a goroutine that goes through its operations one by one. What belongs to a
// client is in its session: whether it is trusted, its settings (nix.conf with what it was
// allowed to change), and a lease on all paths that it was told of. Nothing in a session is
// shared, and no lock is held while a client is waited for.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/daemon/nixconf"
	"github.com/tvixd/tvixd/gc"
	"github.com/tvixd/tvixd/store"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// Options are what a Daemon serves, and how. Store, Builder, Collector and Config are needed.
type Options struct {
	Store     *store.Store
	Builder   *build.Builder
	Collector *gc.Collector

	// Config is nix.conf. It is not changed.
	Config *nixconf.Config

	// Trust overrides the judgement by trusted-users. TrustUnknown is no override.
	Trust wp.Trust

	// Signer has keys of ours, whose signatures are believed as well.
	Signer *Signer

	// Accounts looks users up; nil stands for those of this machine.
	Accounts Accounts

	// Version is told to clients.
	Version string

	// Logger gets what no client is told; nil discards it.
	Logger *slog.Logger
}

// Daemon serves clients. Its methods may be called concurrently.
type Daemon struct {
	opts   Options
	ops    map[wp.Op]handler
	keys   keyring
	access Access
	logger *slog.Logger
	hangup *hangupWatch
	budget *wp.Budget // of requests
	leased *wp.Budget // of paths that clients keep without having added them

	stop   context.Context // done when Close was called
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool           // guarded by mu
	clients sync.WaitGroup // grows under mu, unless closed

	connected atomic.Int64 // clients after their handshake
}

// requestBudget bounds the memory that the requests of all clients occupy together. A single one
// takes 64 MiB at most, and ordinary ones some kilobytes, which are free.
const requestBudget = 256 << 20

// garbageDelay is how long after large requests, when their handlers have returned, their memory is
// given back to the system. A daemon that has nothing to do makes no garbage that would start a
// collection; and after a collection alone Go's scavenger, which sleeps in an idle process, was
// found to keep 350 of 400 MB.
const garbageDelay = time.Second

// leaseBudget bounds the memory of paths that clients ask to keep, at leaseBytes each; the first
// thousands of a client's are free. Paths need not be valid to be kept, so nothing else does.
const (
	leaseBudget = 256 << 20
	leaseBytes  = 256
)

// New makes a daemon that serves nobody yet.
func New(o Options) (*Daemon, error) {
	if o.Accounts == nil {
		o.Accounts = SystemAccounts{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	hangup, err := newHangupWatch()
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		opts:   o,
		ops:    handlers,
		logger: o.Logger,
		hangup: hangup,
		budget: wp.NewBudget(requestBudget),
		leased: wp.NewBudget(leaseBudget),
		access: Access{
			TrustedUsers:    o.Config.TrustedUsers,
			AllowedUsers:    o.Config.AllowedUsers,
			BuildUsersGroup: o.Config.BuildUsersGroup,
		},
	}
	d.budget.OnIdle(func() { time.AfterFunc(garbageDelay, debug.FreeOSMemory) })
	var bad []string
	d.keys, bad = d.keyring(o.Config)
	for _, text := range bad {
		o.Logger.Warn("trusted-public-keys holds something that is no key", "key", text)
	}
	d.stop, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// keyring are the keys that a configuration trusts, and what it holds that is no key.
func (d *Daemon) keyring(c *nixconf.Config) (keys keyring, bad []string) {
	keys, bad = parseKeyring(c.TrustedPublicKeys)
	return append(keys, d.opts.Signer.public()...), bad
}

// Close ends all operations and connections, and returns when they have ended; further calls do
// nothing. Listeners are to be closed by whoever opened them.
func (d *Daemon) Close() {
	d.mu.Lock()
	first := !d.closed
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.clients.Wait()
	if first {
		d.hangup.close()
	}
}

// Serve accepts clients from l until it is closed, and gives each a goroutine. It returns nil
// after the daemon or the listener was closed.
func (d *Daemon) Serve(l net.Listener) error {
	defer context.AfterFunc(d.stop, func() { l.Close() })()
	const pause = 50 * time.Millisecond
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			d.start(conn)
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE),
			errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ECONNABORTED):
			// It passes when a client leaves.
			d.logger.Error("cannot accept a client", "error", err)
			select {
			case <-time.After(pause):
			case <-d.stop.Done():
			}
		default:
			return fmt.Errorf("accept clients: %w", err)
		}
	}
}

func (d *Daemon) start(conn net.Conn) {
	if !d.enter(conn) {
		return
	}
	go func() {
		defer d.clients.Done()
		d.serveSocket(conn)
	}()
}

// enter counts a client in, or closes its connection when the daemon is closed.
func (d *Daemon) enter(conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		conn.Close()
		return false
	}
	d.clients.Add(1)
	return true
}

// serveSocket serves a client whose name the kernel knows.
func (d *Daemon) serveSocket(conn net.Conn) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		d.logger.Error("a client came over something else than a Unix socket")
		return
	}
	peer, err := peerOf(unixConn)
	if err != nil {
		conn.Close()
		d.logger.Error("cannot tell who a client is", "error", err)
		return
	}
	name, trusted, refused := d.access.judge(peer, d.opts.Accounts)
	switch {
	case d.opts.Trust != wp.TrustUnknown:
		trusted, refused = d.opts.Trust == wp.Trusted, nil
	case refused == nil && peer.UID != 0:
		if err := d.opts.Collector.CreateUser(name, int(peer.UID)); err != nil {
			d.logger.Debug("cannot make a user's folders", "error", err)
		}
	}
	logger := d.logger.With("pid", peer.PID, "user", name)
	logger.Info("accepted a connection", "trusted", trusted)
	d.serve(client{conn: unixConn, trusted: trusted, refused: refused, logger: logger})
}

// ServePrivate serves one client that reached this process by another way than a socket of its
// own, and returns when it has left. It is trusted unless the options say otherwise: whoever
// could start us with a client on our standard input could do everything by itself.
func (d *Daemon) ServePrivate(conn *net.UnixConn) {
	if !d.enter(conn) {
		return
	}
	defer d.clients.Done()
	d.serve(client{conn: conn, trusted: d.opts.Trust != wp.NotTrusted, logger: d.logger.With("client", "private")})
}
