package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestListen(t *testing.T) {
	for _, tc := range []struct{ what, path string }{
		{"a new folder", "a/b/socket"},
		{"a name too long for an address", strings.Repeat("long/", 40) + "socket"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			path := filepath.Join(shortDir(t), tc.path)
			if _, err := Listen(path, 0o666); err == nil || !strings.Contains(err.Error(), "no such file") && !strings.Contains(err.Error(), "does not exist") {
				t.Fatalf("without a folder: %v", err)
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			l, err := Listen(path, 0o666)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != os.ModeSocket|0o666 {
				t.Errorf("mode %v", info.Mode())
			}
			if _, err := Listen(path, 0o666); !errors.Is(err, ErrSocketInUse) {
				t.Errorf("a second daemon: %v", err)
			}
			conn, err := Dial(path)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			l.Close()
			// The file stays, as nix-daemon's does.
			if _, err := Dial(path); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "socket")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := Listen(path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(shortDir(t), "socket")
	if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, 0o666); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestActivatedRefusesAForeignPID(t *testing.T) {
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_PID", "1")
	if _, err := Activated(); err == nil {
		t.Error("took another process's sockets")
	}
	if os.Getenv("LISTEN_FDS") != "" {
		t.Error("the variables stayed for children to see")
	}
	if l, err := Activated(); l != nil || err != nil {
		t.Errorf("without variables: %v, %v", l, err)
	}
}

func TestHangupWatch(t *testing.T) {
	w, err := newHangupWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	path := filepath.Join(shortDir(t), "s")
	l, err := Listen(path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := func() (client, server *net.UnixConn, ctx context.Context, forget func()) {
		t.Helper()
		client, err := Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		if server, err = l.AcceptUnix(); err != nil {
			t.Fatal(err)
		}
		raw, err := server.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		return client, server, ctx, w.watch(raw, cancel)
	}

	client, server, ctx, forget := connect()
	defer server.Close()
	other, otherServer, otherCtx, otherForget := connect()
	defer other.Close()
	defer otherServer.Close()
	defer otherForget()

	// Unread data and a closed writing side are no hang-up.
	if _, err := client.Write([]byte("the next operation")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
		t.Fatal("cancelled although the client still listens")
	case <-time.After(50 * time.Millisecond):
	}
	client.Close()
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), errHungUp) {
		t.Errorf("cause %v", context.Cause(ctx))
	}
	forget()
	if otherCtx.Err() != nil {
		t.Error("another client was cancelled, too")
	}

	// A client that is forgotten may go without any effect.
	client, server, ctx, forget = connect()
	forget()
	client.Close()
	server.Close()
	client, server, _, forget = connect() // most likely the same descriptor
	defer client.Close()
	defer server.Close()
	defer forget()
	if ctx.Err() != nil {
		t.Error("cancelled after forget")
	}
}
