package fuse

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/disk"
	"github.com/tvixd/tvixd/internal/sqldb"
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
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		tb.Skip("no sources of Go: ", err)
	}
	root := strings.TrimSpace(string(out))
	if _, err := os.Stat(root + "/src"); err != nil {
		tb.Skip("no sources of Go: ", err)
	}
	return root
}

// packStore is a castore on the disk.
func packStore(tb testing.TB) castore.Store {
	tb.Helper()
	dir := tb.TempDir()
	db, err := sqldb.Open(filepath.Join(dir, "db.sqlite"), sqldb.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	store, err := disk.Open(context.Background(), disk.Options{Dir: filepath.Join(dir, "castore"), DB: db})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Error(err)
		}
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return store
}
