package fuse

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"log"
	"log/slog"
	"os"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/fuse/fusetest"
)

func TestNotifications(t *testing.T) {
	for _, c := range []struct {
		name string
		have []byte
		want string
	}{
		{"entry", invalidEntry(1, "abc"), "24000000" + "03000000" + "0000000000000000" + "0100000000000000" + "03000000" + "00000000" + "61626300"},
		{"attributes", invalidAttr(7), "28000000" + "02000000" + "0000000000000000" + "0700000000000000" + "ffffffffffffffff" + "0000000000000000"},
		{"error", errorReply(5, gofuse.ENOENT), "10000000" + "feffffff" + "0500000000000000"},
	} {
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
			t.Skip("the bytes are those of a little-endian machine")
		}
		if got := hex.EncodeToString(c.have); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// message makes a request of the kernel.
func message(opcode uint32, node uint64, body ...byte) []byte {
	b := make([]byte, requestHeader, requestHeader+len(body))
	binary.NativeEndian.PutUint32(b, uint32(requestHeader+len(body)))
	binary.NativeEndian.PutUint32(b[4:], opcode)
	binary.NativeEndian.PutUint64(b[8:], 99)
	binary.NativeEndian.PutUint64(b[16:], node)
	return append(b, body...)
}

// silentDevice answers into nothing.
func silentDevice(tb testing.TB) (*device, *fileSystem) {
	tb.Helper()
	log.SetOutput(io.Discard) // go-fuse complains of bad requests there
	tb.Cleanup(func() { log.SetOutput(os.Stderr) })
	store := memory.New()
	nodes, err := fusetest.Fixture(context.Background(), store)
	if err != nil {
		tb.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = null.Close() })
	logger := slog.New(slog.DiscardHandler)
	o := &Options{Mountpoint: "/", Castore: store, Roots: fusetest.NewRoots(nodes), ListRoot: true, Xattr: true, Logger: logger}
	if err := o.setDefaults(); err != nil {
		tb.Fatal(err)
	}
	fs := newFileSystem(context.Background(), o)
	options := protocolOptions(o)
	options.PanicHandler = func(p any) gofuse.Status {
		tb.Fatalf("panic: %v", p)
		return gofuse.EIO
	}
	return &device{fd: int(null.Fd()), logger: logger, protocol: gofuse.NewProtocolServer(fs, options)}, fs
}

// FuzzRequests sends a sequence of two requests, as a hostile kernel of a virtual
// machine could.
func FuzzRequests(f *testing.F) {
	name := "33333333333333333333333333333333-test\x00"
	init := make([]byte, 64)
	init[0], init[4] = 7, 45
	f.Add(message(opLookup, rootID, []byte(name)...), message(opReadDirPlus, 64, make([]byte, 40)...))
	f.Add(message(opLookup, rootID, []byte(name)...), message(opRead, 128, make([]byte, 40)...))
	f.Add(message(opInit, 0, init...), message(opGetXAttr, 64, append([]byte{0, 1, 0, 0, 0, 0, 0, 0}, "user.x\x00"...)...))
	f.Add(message(opForget, 64, make([]byte, 8)...), message(opBatchForget, 0, make([]byte, 40)...))
	f.Add(message(opReadDir, rootID, make([]byte, 40)...), message(opIoctl, rootID, make([]byte, 32)...))
	for op := range uint32(opCount) {
		f.Add(message(op, rootID), message(op, 64, make([]byte, 128)...))
	}
	d, fs := silentDevice(f)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		for _, b := range [][]byte{first, second} {
			r, err := parseRequest(b)
			if err != nil {
				continue
			}
			_ = r.name()
			d.handle(r)
		}
		if _, ok := fs.nodes.get(rootID); ok {
			t.Error("the root's number was given away")
		}
	})
}

func TestWritesAnsweredReadOnly(t *testing.T) {
	_, fs := silentDevice(t)
	if fs.String() != "tvixd" {
		t.Error(fs.String())
	}
	for name, status := range map[string]gofuse.Status{
		"setattr":  fs.SetAttr(nil, nil, nil),
		"mknod":    fs.Mknod(nil, nil, "x", nil),
		"mkdir":    fs.Mkdir(nil, nil, "x", nil),
		"unlink":   fs.Unlink(nil, nil, "x"),
		"rmdir":    fs.Rmdir(nil, nil, "x"),
		"rename":   fs.Rename(nil, nil, "x", "y"),
		"link":     fs.Link(nil, nil, "x", nil),
		"symlink":  fs.Symlink(nil, nil, "x", "y", nil),
		"create":   fs.Create(nil, nil, "x", nil),
		"tmpfile":  fs.Tmpfile(nil, nil, nil),
		"open":     fs.Open(nil, &gofuse.OpenIn{Flags: uint32(os.O_RDWR)}, nil),
		"truncate": fs.Open(nil, &gofuse.OpenIn{Flags: uint32(os.O_TRUNC)}, nil),
		"allocate": fs.Fallocate(nil, nil),
		"setxattr": fs.SetXAttr(nil, nil, "x", nil),
		"rmxattr":  fs.RemoveXAttr(nil, nil, "x"),
	} {
		if status != gofuse.EROFS {
			t.Errorf("%s: %v, want EROFS", name, status)
		}
	}
	if _, status := fs.Write(nil, nil, nil); status != gofuse.EROFS {
		t.Errorf("write: %v, want EROFS", status)
	}
	if _, status := fs.Writev(nil, nil, nil); status != gofuse.EROFS {
		t.Errorf("writev: %v, want EROFS", status)
	}
	if _, status := fs.CopyFileRange(nil, nil); status != gofuse.EROFS {
		t.Errorf("copy_file_range: %v, want EROFS", status)
	}
}

func TestFilledResult(t *testing.T) {
	data := []byte("some data")
	r := filled(data)
	if n, status := r.Readv([][]byte{data}); n != len(data) || status != gofuse.OK {
		t.Error(n, status)
	}
	a, b := make([]byte, 4), make([]byte, 20)
	if n, _ := r.Readv([][]byte{a, b}); n != len(data) || string(a)+string(b[:5]) != string(data) {
		t.Errorf("%d bytes, %q %q", n, a, b)
	}
}
