package fuse

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// forgetAll makes the kernel forget all of a mount that is not in use: names,
// nodes and pages. A remount does that for one file system; drop_caches would do
// it to the whole machine.
func forgetAll(tb testing.TB, dir string) {
	tb.Helper()
	const flags = unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		tb.Errorf("remount: %v", err)
	}
}

func goRoot(tb testing.TB) string {
	tb.Helper()
	root := os.Getenv("GOROOT") // set by go test
	if root == "" {
		tb.Skip("GOROOT is not set")
	}
	if _, err := os.Stat(root + "/src"); err != nil {
		tb.Skip("no sources of Go: ", err)
	}
	return root
}
