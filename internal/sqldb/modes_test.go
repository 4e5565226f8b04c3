package sqldb

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestModes makes databases under several umasks, and opens ones whose files
// everybody may read.
func TestModes(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		old := syscall.Umask(umask)
		defer syscall.Umask(old)
		path := filepath.Join(t.TempDir(), "db.sqlite")
		if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		want := func(when string) {
			t.Helper()
			for _, suffix := range []string{"", "-wal", "-shm", "-reserve"} {
				fi, err := os.Stat(path + suffix)
				if err != nil {
					t.Fatal(err)
				}
				if fi.Mode() != 0o600 {
					t.Errorf("umask %03o, %s: db.sqlite%s has mode %v", umask, when, suffix, fi.Mode())
				}
			}
		}
		for _, when := range []string{"made", "opened again"} {
			db, err := Open(path, Options{ReserveBytes: 4096})
			if err != nil {
				t.Fatal(err)
			}
			exec(t, db, "CREATE TABLE IF NOT EXISTS t (n INTEGER) STRICT")
			exec(t, db, "INSERT INTO t VALUES (1)")
			want(when)
			log, err := os.ReadFile(path + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
			// As a killed process leaves it, with modes that allow too much.
			for suffix, data := range map[string][]byte{"-wal": log, "-shm": nil} {
				if err := os.WriteFile(path+suffix, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, suffix := range []string{"", "-wal", "-shm", "-reserve"} {
				if err := os.Chmod(path+suffix, 0o666); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
