package daemon

import (
	"encoding/binary"
	"io"
	"maps"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	wp "github.com/tvixd/tvixd/worker-protocol"
)

// FuzzOperations sends anything behind a good greeting. Whatever it is, the daemon ends with the
// connection, and newDaemon checks the store in the end.
func FuzzOperations(f *testing.F) {
	// Not trusted, and no builds: nothing may reach beyond the store.
	ops := maps.Clone(handlers)
	for _, op := range []wp.Op{wp.OpBuildPaths, wp.OpBuildPathsWithResults, wp.OpBuildDerivation, wp.OpEnsurePath} {
		delete(ops, op)
	}
	d := newDaemon(f, setup{trust: wp.NotTrusted, ops: ops})
	words := func(b []byte, words ...uint64) []byte {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		return b
	}
	text := func(b []byte, s string) []byte {
		b = append(words(b, uint64(len(s))), s...)
		return append(b, make([]byte, -len(s)&7)...)
	}
	path := "/nix/store/" + pathFor(f, "x").Base()
	archive := fileNAR(f, "x")
	f.Add(uint8(38), text(words(nil, uint64(wp.OpQueryPathInfo)), path))
	f.Add(uint8(38), words(words(text(words(nil, uint64(wp.OpAddTextToStore)), "name"), 1), 0, 0))
	f.Add(uint8(34), append(append(words(nil, uint64(wp.OpAddMultipleToStore), 0, 1, 16, 1), archive...), words(nil, 0)...))
	f.Add(uint8(18), append(text(words(text(words(nil, uint64(wp.OpAddToStore)), "n"), 1, 1), "sha256"), archive...))
	f.Add(uint8(30), words(text(words(nil, uint64(wp.OpBuildPaths), 1), path+"!out"), 0))
	f.Add(uint8(25), words(nil, uint64(wp.OpSetOptions), 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0))
	f.Add(uint8(20), words(nil, uint64(wp.OpCollectGarbage), 2, 0, 0, 1, 0, 0, 0, uint64(wp.OpFindRoots), uint64(wp.OpVerifyStore), 1, 1))
	f.Fuzz(func(t *testing.T, minor uint8, data []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		var conns [2]*net.UnixConn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "pair")
			conn, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			conns[i] = conn.(*net.UnixConn)
			defer conn.Close()
		}
		served := make(chan struct{})
		go func() {
			d.ServePrivate(conns[0])
			close(served)
		}()
		client := conns[1]
		greeting := words(nil, 0x6e697863, uint64(wp.MakeVersion(1, minor)))
		if minor >= 38 {
			greeting = words(greeting, 0) // no features
		}
		go func() {
			_, _ = client.Write(append(words(greeting, 0, 0), data...))
			_ = client.CloseWrite()
		}()
		if err := client.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, client); err != nil {
			t.Fatalf("the daemon did not close the connection: %v", err)
		}
		<-served
	})
}
