package daemon

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/castore/disk"
	"github.com/tvixd/tvixd/daemon/nixconf"
	"github.com/tvixd/tvixd/gc"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo/sqlite"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// benchDaemon is a daemon on disk with n small paths, and a client of it.
func benchDaemon(b *testing.B, n int) (*wp.Client, []storepath.Path) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	dir, ctx, logger := b.TempDir(), b.Context(), slog.New(slog.DiscardHandler)
	db, err := sqldb.Open(filepath.Join(dir, "db.sqlite"), sqldb.Options{})
	must(err)
	contents, err := disk.Open(ctx, disk.Options{Dir: filepath.Join(dir, "castore"), DB: db})
	must(err)
	infos, err := sqlite.New(ctx, db, logger)
	must(err)
	layout := layoutIn(dir)
	must(layout.Prepare(logger))
	st := store.New(store.Options{Dir: layout.Store, Castore: contents, PathInfo: infos})
	collector := gc.New(gc.Options{Store: st, StateDir: layout.StateDir})
	must(collector.Prepare())
	builder, err := build.New(build.Options{Store: st, StateDir: layout.StateDir, LogDir: layout.LogDir, ScratchDir: filepath.Join(dir, "builds")})
	must(err)
	d, err := New(Options{Store: st, Builder: builder, Collector: collector, Config: nixconf.New(nixconf.Host{}), Trust: wp.Trusted})
	must(err)
	l, err := Listen(layout.Socket, 0o600)
	must(err)
	go func() { _ = d.Serve(l) }()
	conn, err := Dial(layout.Socket)
	must(err)
	client, err := wp.NewClient(ctx, conn, wp.ClientOptions{Dir: layout.Store})
	must(err)
	b.Cleanup(func() {
		client.Close()
		l.Close()
		d.Close()
		must(builder.Close())
		must(contents.Close())
		must(db.Close())
	})
	paths := make([]storepath.Path, n)
	items := make([]wp.Item, n)
	for i := range paths {
		info, archive := item(b, fmt.Sprintf("path-%d", i), fmt.Sprintf("contents %d", i))
		if i > 0 {
			info.References = []storepath.Path{paths[i/2]}
		}
		paths[i], items[i] = info.Path, wp.Item{Info: info, NAR: bytes.NewReader(archive)}
	}
	must(client.AddMultipleToStore(ctx, wp.AddMultipleToStoreRequest{DontCheckSigs: true}, uint64(n), slices.Values(items)))
	return client, paths
}

func BenchmarkQueries(b *testing.B) {
	c, paths := benchDaemon(b, 10_000)
	b.Run("IsValidPath", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if ok, err := c.IsValidPath(b.Context(), paths[i%len(paths)]); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("QueryPathInfo", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if info, err := c.QueryPathInfo(b.Context(), paths[i%len(paths)]); info == nil || err != nil {
				b.Fatal(info, err)
			}
		}
	})
	b.Run("QueryValidPaths10000", func(b *testing.B) {
		for b.Loop() {
			if valid, err := c.QueryValidPaths(b.Context(), paths, false); len(valid) != len(paths) || err != nil {
				b.Fatal(len(valid), err)
			}
		}
	})
	b.Run("QueryAllValidPaths10000", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.QueryAllValidPaths(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAddAndRead(b *testing.B) {
	c, _ := benchDaemon(b, 1)
	contents := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	b.Run("AddToStoreNar16MiB", func(b *testing.B) {
		b.SetBytes(int64(len(contents)))
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			copy(contents, fmt.Sprintf("%016d", i))
			info, archive := item(b, fmt.Sprintf("large-%d", i), string(contents))
			b.StartTimer()
			err := c.AddToStoreNar(b.Context(), wp.AddToStoreNarRequest{Info: info, DontCheckSigs: true}, bytes.NewReader(archive))
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("NarFromPath16MiB", func(b *testing.B) {
		b.SetBytes(int64(len(contents)))
		for b.Loop() {
			if err := c.NarFromPath(b.Context(), pathFor(b, "large-0"), io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("AddTextToStore", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := c.AddTextToStore(b.Context(), wp.AddTextToStoreRequest{Name: "text", Text: fmt.Sprint(i)}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
