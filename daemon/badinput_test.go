package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// Each test here ends with a check of the store, see newDaemon.

// raw writes what no client of ours would.
type raw struct {
	*net.UnixConn
	t *testing.T
}

// dialOld says hello as a client of 1.34 does, with only words that need no answer in between.
func (d *testDaemon) dialOld(t *testing.T) raw {
	t.Helper()
	r := raw{d.dialRaw(t), t}
	r.words(0x6e697863)
	r.read(16)
	r.words(uint64(wp.MakeVersion(1, 34)), 0, 0)
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	r.skipUntilLast()
	return r
}

func (r raw) words(words ...uint64) {
	r.t.Helper()
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	if _, err := r.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r raw) text(s string) {
	r.t.Helper()
	r.words(uint64(len(s)))
	if _, err := r.Write(append([]byte(s), make([]byte, -len(s)&7)...)); err != nil {
		r.t.Fatal(err)
	}
}

func (r raw) read(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// skipUntilLast reads the daemon's version and STDERR_LAST.
func (r raw) skipUntilLast() {
	n := binary.LittleEndian.Uint64(r.read(8))
	r.read(int(n+7) &^ 7)
	if last := binary.LittleEndian.Uint64(r.read(8)); last != 0x616c7473 {
		r.t.Fatalf("the handshake ended with %#x", last)
	}
}

// rest reads until the daemon closes the connection.
func (r raw) rest() string {
	b, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !strings.Contains(err.Error(), "reset") {
		r.t.Fatal(err)
	}
	return string(b)
}

func TestHugeClaims(t *testing.T) {
	d := newDaemon(t, setup{})
	const huge = 1 << 63
	for what, send := range map[string]func(raw){
		"a string":        func(r raw) { r.words(uint64(wp.OpIsValidPath), huge) },
		"a string of GiB": func(r raw) { r.words(uint64(wp.OpIsValidPath), 4<<30) },
		"a list":          func(r raw) { r.words(uint64(wp.OpQueryValidPaths), huge) },
		"a text":          func(r raw) { r.words(uint64(wp.OpAddTextToStore)); r.text("x"); r.words(huge) },
		"options":         func(r raw) { r.words(uint64(wp.OpSetOptions), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, huge) },
		"a frame": func(r raw) {
			r.words(uint64(wp.OpAddMultipleToStore), 0, 1, huge)
		},
		"items": func(r raw) {
			r.words(uint64(wp.OpAddMultipleToStore), 0, 1, 8, huge, 8, huge)
		},
		"an operation": func(r raw) { r.words(huge) },
	} {
		t.Run(what, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := d.dialOld(t)
			r.t = t
			send(r)
			if err := r.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			r.rest()
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
	if _, err := d.dial(t, 0).QueryAllValidPaths(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestUnknownOperation(t *testing.T) {
	d := newDaemon(t, setup{})
	for op, want := range map[uint64]string{
		999: "invalid operation 999", 0: "invalid operation 0", 27: "operation ImportPaths (27) is not supported any more",
		50: "operation QueryPathInfos (50) is not supported",
	} {
		r := d.dialOld(t)
		r.words(op)
		if got := r.rest(); !strings.Contains(got, want) {
			t.Errorf("operation %d: answer %q, want %q", op, got, want)
		}
	}
}

// An operation whose request is known costs the client nothing but an error.
func TestUnservedOperationLeavesTheConnectionUsable(t *testing.T) {
	ops := map[wp.Op]handler{}
	for op, h := range handlers {
		if op != wp.OpFindRoots && op != wp.OpAddToStoreNar {
			ops[op] = h
		}
	}
	d := newDaemon(t, setup{ops: ops})
	for _, minor := range versions {
		c := d.dial(t, wp.MakeVersion(1, minor))
		_, err := c.FindRoots(t.Context())
		wantError(t, "find roots", err, "operation FindRoots is not supported")
		if minor < 23 {
			continue // there the archive follows without a frame, see below
		}
		info, archive := item(t, "x", strings.Repeat("x", 1<<20))
		err = c.AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info}, bytes.NewReader(archive))
		wantError(t, "add", err, "operation AddToStoreNar is not supported")
		if _, err := c.IsValidPath(t.Context(), info.Path); err != nil {
			t.Errorf("1.%d: afterwards: %v", minor, err)
		}
	}
}

func TestBadPaths(t *testing.T) {
	d := newDaemon(t, setup{})
	for _, tc := range []struct{ path, want string }{
		{"/other/store/" + pathFor(t, "x").Base(), "is not in the Nix store"},
		{"/etc/passwd", "is not in the Nix store"},
		{d.layout.Store.Join(pathFor(t, "x")) + "/sub", "is not in the Nix store"},
		{string(d.layout.Store) + "/short", ""},
		{string(d.layout.Store) + "/" + pathFor(t, "x").HashPart() + "-" + strings.Repeat("n", 212), ""},
		{string(d.layout.Store) + "/" + pathFor(t, "x").HashPart() + "-a\x00b", ""},
		{"relative", ""},
		{"", ""},
	} {
		r := d.dialOld(t)
		r.words(uint64(wp.OpQueryPathInfo))
		r.text(tc.path)
		// The connection is as good as before.
		r.words(uint64(wp.OpIsValidPath))
		r.text(d.layout.Store.Join(pathFor(t, "x")))
		if err := r.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got := r.rest()
		if !strings.Contains(got, tc.want) || !strings.Contains(got, "Error") {
			t.Errorf("%q: answer %q, want %q", tc.path, got, tc.want)
		}
		if !strings.HasSuffix(got, "stla\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") {
			t.Errorf("%q: the next operation was not answered: %q", tc.path, got)
		}
	}
}

func TestRefusedAdds(t *testing.T) {
	for _, minor := range []uint8{18, 21, 23, 32, 38} {
		d := newDaemon(t, setup{})
		base := addUnsigned(t, d.dial(t, 0), "base", "base")
		for _, tc := range []struct {
			what string
			bend func(*wp.ValidPathInfo, *[]byte)
			want string
		}{
			{"a wrong hash", func(i *wp.ValidPathInfo, _ *[]byte) { i.NarHash = nixhash.Sum(nixhash.SHA256, nil) }, "hash mismatch importing path"},
			{"a wrong size", func(i *wp.ValidPathInfo, _ *[]byte) { i.NarSize++ }, "size mismatch importing path"},
			{"a reference that is not valid", func(i *wp.ValidPathInfo, _ *[]byte) { i.References = []storepath.Path{pathFor(t, "absent")} }, "is not valid"},
			{"a false content address", func(i *wp.ValidPathInfo, _ *[]byte) {
				i.CA = storepath.ContentAddress{Method: storepath.NAR, Hash: i.NarHash}
			}, "content-addressed"},
		} {
			c := d.dial(t, wp.MakeVersion(1, minor))
			info, archive := item(t, "bad", "some contents", base)
			tc.bend(&info, &archive)
			request := wp.AddToStoreNarRequest{Info: info, DontCheckSigs: true}
			wantError(t, tc.what, c.AddToStoreNar(t.Context(), request, bytes.NewReader(archive)), tc.want)
			if ok, err := c.IsValidPath(t.Context(), info.Path); ok || err != nil {
				t.Errorf("1.%d, %s: afterwards %v, %v", minor, tc.what, ok, err)
			}
		}
	}
}

// After the good ones before it, a bad item is refused, and the connection goes on.
func TestBadItem(t *testing.T) {
	d := newDaemon(t, setup{})
	c := d.dial(t, 0)
	good, goodNAR := item(t, "good", "good")
	bad, badNAR := item(t, "bad", "bad")
	bad.NarHash = good.NarHash
	err := c.AddMultipleToStore(t.Context(), wp.AddMultipleToStoreRequest{DontCheckSigs: true}, 2, func(yield func(wp.Item) bool) {
		_ = yield(wp.Item{Info: good, NAR: bytes.NewReader(goodNAR)}) && yield(wp.Item{Info: bad, NAR: bytes.NewReader(badNAR)})
	})
	wantError(t, "a bad item", err, "hash mismatch importing path '"+d.layout.Store.Join(bad.Path)+"'")
	if ok, err := c.IsValidPath(t.Context(), bad.Path); ok || err != nil {
		t.Errorf("the bad one: %v, %v", ok, err)
	}
}

func TestClientVanishesInAnAdd(t *testing.T) {
	d := newDaemon(t, setup{})
	info, archive := item(t, "cut", strings.Repeat("contents ", 100_000))
	for _, sent := range []int{0, 8, 100, len(archive) / 2, len(archive) - 1} {
		c := d.dial(t, 0)
		err := c.AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info, DontCheckSigs: true},
			&vanishing{data: archive[:sent], client: c})
		if err == nil {
			t.Errorf("after %d bytes: no error", sent)
		}
	}
	d.waitForClients(t, 0)
	c := d.dial(t, 0)
	if ok, err := c.IsValidPath(t.Context(), info.Path); ok || err != nil {
		t.Errorf("the path: %v, %v", ok, err)
	}
	addUnsigned(t, c, "cut", strings.Repeat("contents ", 100_000))
}

// vanishing is an archive whose sender goes away.
type vanishing struct {
	data   []byte
	client *wp.Client
}

func (v *vanishing) Read(p []byte) (int, error) {
	if len(v.data) == 0 {
		v.client.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, v.data)
	v.data = v.data[n:]
	return n, nil
}

func TestStrangeGreetings(t *testing.T) {
	d := newDaemon(t, setup{})
	for what, words := range map[string][]uint64{
		"no magic":     {0x1234567812345678, 0x126},
		"version 0":    {0x6e697863, 0},
		"version 1.0":  {0x6e697863, 0x100},
		"version 1.17": {0x6e697863, 0x111},
	} {
		r := raw{d.dialRaw(t), t}
		r.words(words...)
		if got := r.rest(); got != "" {
			t.Errorf("%s: answer %q", what, got)
		}
	}
}

// Whatever half of the clients does, the others are served.
func TestHungClients(t *testing.T) {
	d := newDaemon(t, setup{})
	path := addUnsigned(t, d.dial(t, 0), "path", strings.Repeat("contents ", 1_000_000))
	for range 8 {
		d.dialRaw(t) // says nothing
		r := d.dialOld(t)
		r.words(uint64(wp.OpNarFromPath)) // never reads the archive
		r.text(d.layout.Store.Join(path))
		r = d.dialOld(t)
		r.words(uint64(wp.OpAddMultipleToStore), 0, 1, 1000) // never sends the frame
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := d.dial(t, 0)
	addUnsigned(t, c, "other", "other")
	if err := c.NarFromPath(ctx, path, io.Discard); err != nil {
		t.Errorf("archive: %v", err)
	}
	_, err := c.CollectGarbage(ctx, wp.CollectGarbageRequest{Action: wp.GCDeleteDead, WholeStore: true, MaxFreed: wp.GCNoLimit})
	if err != nil {
		t.Errorf("collect: %v", err)
	}
}
