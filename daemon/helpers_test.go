package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tvixd/tvixd/castore"
	castorememory "github.com/tvixd/tvixd/castore/memory"
	pathinfomemory "github.com/tvixd/tvixd/pathinfo/memory"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/daemon/nixconf"
	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/gc"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// testDaemon is a daemon over memory, on a real socket.
type testDaemon struct {
	*Daemon
	layout Layout
	log    *syncBuffer
}

type setup struct {
	trust  wp.Trust
	config string // lines of nix.conf
	ops    map[wp.Op]handler
	budget int64         // of the requests, and of what they lease; 0 is the daemon's own
	store  castore.Store // nil: a new one in memory
}

// newDaemon starts a daemon that is closed at the end of the test, and checked: whatever was done
// to it, its store must be sound.
func newDaemon(t testing.TB, s setup) *testDaemon {
	t.Helper()
	ctx := context.Background()
	layout := layoutIn(shortDir(t))
	config := nixconf.New(nixconf.Host{ConfDir: "/etc/nix", Processors: 2, System: "x86_64-linux"})
	if err := config.Apply("sandbox = false\ntrusted-users = *\n"+s.config, "nix.conf"); err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := layout.Prepare(logger); err != nil {
		t.Fatal(err)
	}
	if s.store == nil {
		s.store = castorememory.New()
	}
	st := store.New(store.Options{Dir: layout.Store, Castore: s.store, PathInfo: pathinfomemory.New(), Logger: logger})
	collector := gc.New(gc.Options{Store: st, StateDir: layout.StateDir, ProcDir: t.TempDir(), Logger: logger})
	if err := collector.Prepare(); err != nil {
		t.Fatal(err)
	}
	builder, err := build.New(build.Options{
		Store: st, StateDir: layout.StateDir, LogDir: layout.LogDir, ScratchDir: filepath.Join(t.TempDir(), "builds"), Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{
		Store: st, Builder: builder, Collector: collector, Config: config, Trust: s.trust, Version: "tvixd test", Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.ops != nil {
		d.ops = s.ops
	}
	if s.budget > 0 {
		d.budget, d.leased = wp.NewBudget(s.budget), wp.NewBudget(s.budget)
	}
	l, err := Listen(layout.Socket, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- d.Serve(l) }()
	td := &testDaemon{d, layout, log}
	t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		d.Close()
		if err := builder.Close(); err != nil {
			t.Errorf("close builder: %v", err)
		}
		err := st.VerifyAll(ctx, store.VerifyOptions{CheckContents: true}, func(p store.Problem) {
			t.Errorf("the store is damaged: %v", p.Err)
		})
		if err != nil {
			t.Errorf("verify: %v", err)
		}
		if strings.Contains(log.String(), "panicked") {
			t.Errorf("an operation panicked:\n%s", log)
		}
	})
	return td
}

// dial connects a client of some version; 0 is the newest.
func (d *testDaemon) dial(t *testing.T, version wp.Version) *wp.Client {
	t.Helper()
	return d.dialLog(t, version, nil)
}

func (d *testDaemon) dialLog(t *testing.T, version wp.Version, log func(wp.LogMessage)) *wp.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := wp.NewClient(ctx, d.dialRaw(t), wp.ClientOptions{Dir: d.layout.Store, Version: version, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (d *testDaemon) dialRaw(t *testing.T) *net.UnixConn {
	t.Helper()
	conn, err := Dial(d.layout.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// fileNAR is the archive of a plain file.
func fileNAR(t testing.TB, contents string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	err := w.Header(nar.Header{Kind: nar.Regular, Size: uint64(len(contents))})
	if err == nil && contents != "" {
		_, err = w.Write([]byte(contents))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pathFor is some path with this name; equal names give equal paths.
func pathFor(t testing.TB, name string) storepath.Path {
	t.Helper()
	sum := nixhash.Sum(nixhash.SHA1, []byte(name))
	p, err := storepath.New([storepath.DigestSize]byte(sum.Bytes()), name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// item is a path that is named by nothing but its name, with its archive.
func item(t testing.TB, name, contents string, refs ...storepath.Path) (wp.ValidPathInfo, []byte) {
	t.Helper()
	archive := fileNAR(t, contents)
	return wp.ValidPathInfo{Path: pathFor(t, name), PathInfo: wp.PathInfo{
		NarHash:    nixhash.Sum(nixhash.SHA256, archive),
		NarSize:    uint64(len(archive)),
		References: refs,
	}}, archive
}

// addUnsigned adds such a path as a trusted client does.
func addUnsigned(t *testing.T, c *wp.Client, name, contents string, refs ...storepath.Path) storepath.Path {
	t.Helper()
	info, archive := item(t, name, contents, refs...)
	err := c.AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info, DontCheckSigs: true}, bytes.NewReader(archive))
	if err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	return info.Path
}

// wantError checks that err is what the server says, and contains text.
func wantError(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v, want one with %q", what, err, text)
	}
}

// waitForClients waits until the daemon has noticed who is gone.
func (d *testDaemon) waitForClients(t *testing.T, n int64) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for d.connected.Load() != n {
		if time.Now().After(deadline) {
			t.Fatalf("%d clients are connected, want %d", d.connected.Load(), n)
		}
		time.Sleep(time.Millisecond)
	}
}

// addDerivation adds a derivation that could not be built, with input-addressed outputs.
func addDerivation(t *testing.T, d *testDaemon, c *wp.Client, name string, outputs ...string) (storepath.Path, map[string]storepath.Path) {
	t.Helper()
	drv := &derivation.Derivation{
		Name: name, System: "x86_64-linux", Builder: "/no/such/builder",
		Outputs: map[string]derivation.Output{}, Env: map[string]string{},
	}
	for _, o := range outputs {
		drv.Outputs[o] = derivation.Output{Kind: derivation.Deferred}
		drv.Env[o] = ""
	}
	if err := d.opts.Store.Hasher().Fill(drv, nil); err != nil {
		t.Fatal(err)
	}
	paths := map[string]storepath.Path{}
	for name, o := range drv.Outputs {
		paths[name] = o.Path
	}
	request := wp.AddToStoreRequest{Name: name + ".drv", Method: storepath.Text, Algo: nixhash.SHA256}
	info, err := c.AddToStore(t.Context(), request, bytes.NewReader(drv.Format(d.layout.Store)))
	if err != nil {
		t.Fatalf("add derivation: %v", err)
	}
	return info.Path, paths
}

func narHash(archive []byte) nixhash.Hash { return nixhash.Sum(nixhash.SHA256, archive) }
