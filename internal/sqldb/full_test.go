package sqldb

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOpenOnFullDisk opens databases on a small file system of its own, in a
// mount namespace of its own, on which not a byte is left.
func TestOpenOnFullDisk(t *testing.T) {
	if dir := os.Getenv("SQLDB_FULL_DIR"); dir != "" {
		fullChild(t, dir)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	cmd := osexec.Command(os.Args[0], "-test.run=^TestOpenOnFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), "SQLDB_FULL_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skip("may not make a mount namespace")
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skip("may not mount in a namespace")
	}
}

func fullChild(t *testing.T, dir string) {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Skip("cannot make mounts private:", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skip("cannot mount a tmpfs:", err)
	}
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed=", killed), func(t *testing.T) {
			openFull(t, filepath.Join(dir, "db.sqlite"), filepath.Join(dir, "ballast"), killed)
		})
	}
}

// openFull makes a database, ends it cleanly or leaves the files that a killed
// process leaves, and opens it with no space but the reserve.
func openFull(t *testing.T, path, ballast string, killed bool) {
	opts := Options{ReserveBytes: 1 << 20}
	db, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	reclaim := func(db *DB, query string) error {
		return db.Reclaim(ctx, func(tx *Tx) error {
			_, err := tx.Exec(query)
			return err
		})
	}
	if err := errors.Join(reclaim(db, "CREATE TABLE t (n INTEGER) STRICT"), reclaim(db, "INSERT INTO t VALUES (1), (2)")); err != nil {
		t.Fatal(err)
	}
	var log []byte
	if killed {
		if log, err = os.ReadFile(path + "-wal"); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if killed {
		if err := os.WriteFile(path+"-wal", log, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fillDisk(t, ballast)
	if db, err = Open(path, opts); err != nil {
		t.Fatalf("Open on a full disk: %v", err)
	}
	if n := count(t, db, "SELECT count(*) FROM t"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
	if err := reclaim(db, "DELETE FROM t"); err != nil {
		t.Errorf("deletion on a full disk: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("Close on a full disk: %v", err)
	}
	// Without a reserve there is an error that says what is the matter.
	os.Remove(path + "-reserve")
	fillDisk(t, ballast+"2")
	if db, err := Open(path, opts); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Open on a full disk without a reserve: %v", err)
		if err == nil {
			db.Close()
		}
	}
	for _, f := range []string{ballast, ballast + "2", path, path + "-wal", path + "-shm"} {
		os.Remove(f)
	}
}

// fillDisk takes all the space that is left.
func fillDisk(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}
