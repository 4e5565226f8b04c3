package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"time"

	"github.com/tvixd/tvixd/daemon"
)

// control answers what the worker protocol has no operation for, to the daemon's own user: HTTP
// on a socket beside the daemon's.
type control struct {
	listener *net.UnixListener
	server   http.Server
}

func controlSocket(layout daemon.Layout) string { return layout.Socket + ".control" }

func listenControl(layout daemon.Layout) (*control, error) {
	l, err := daemon.Listen(controlSocket(layout), 0o600)
	if err != nil {
		return nil, err
	}
	return &control{listener: l, server: http.Server{ReadHeaderTimeout: time.Minute}}, nil
}

func (c *control) serve(d *daemon.Daemon) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		stats, err := d.Stats(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(stats)
	})
	c.server.Handler = mux
	if err := c.server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

func (c *control) close() {
	c.listener.Close()
	c.server.Close()
}

// askControl gets an answer from the running daemon.
func askControl(ctx context.Context, layout daemon.Layout, path string, into any) error {
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return daemon.Dial(controlSocket(layout))
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://tvixd"+path, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if errors.Is(err, fs.ErrPermission) {
		return errors.New("the daemon tells this to its own user only; call tvixd as that user, usually root")
	}
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the daemon: %s", response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}
