package main

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/daemon"
)

// pipes are the standard streams of a client that talks to proxy.
func startProxy(t *testing.T) (toClient *os.File, fromClient *os.File, far *net.UnixConn, done chan error) {
	t.Helper()
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	near, far, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []io.Closer{inRead, inWrite, outRead, outWrite, far} {
			c.Close()
		}
	})
	done = make(chan error, 1)
	go func() { done <- proxy(t.Context(), near, inRead, outWrite) }()
	return outRead, inWrite, far, done
}

func TestProxyPassesOnBothWays(t *testing.T) {
	out, in, far, done := startProxy(t)
	if _, err := in.WriteString("question"); err != nil {
		t.Fatal(err)
	}
	in.Close() // the answer still comes
	if got, err := io.ReadAll(far); err != nil || string(got) != "question" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := far.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	buf := make([]byte, 16)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func TestProxyEndsWhenTheClientIsGone(t *testing.T) {
	out, _, far, done := startProxy(t)
	out.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n, err := far.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("the daemon was not told")
	}
}

func TestNoDaemon(t *testing.T) {
	w := newWorld(t)
	layout, err := daemon.LayoutFromEnv(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.Dial(layout.Socket); !noDaemon(err) {
		t.Errorf("no socket: %v", err)
	}
	if err := os.MkdirAll(filepath.Dir(layout.Socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := daemon.Listen(layout.Socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // the file stays
		t.Fatal(err)
	}
	if _, err := daemon.Dial(layout.Socket); !noDaemon(err) {
		t.Errorf("a stale socket: %v", err)
	}
	if noDaemon(errors.New("something else")) {
		t.Error("any error means no daemon")
	}
	w.must("stats")
}
