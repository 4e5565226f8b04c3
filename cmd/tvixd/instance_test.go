package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/castore/disk"
	"github.com/tvixd/tvixd/daemon"
	"github.com/tvixd/tvixd/internal/sqldb"
)

func tryInstance(dir string) (*instance, error) {
	layout := daemon.Layout{Store: "/nix/store", StateDir: filepath.Join(filepath.Dir(dir), "state")}
	return openInstance(context.Background(), dir, layout, slog.New(slog.DiscardHandler))
}

func testInstance(t *testing.T, dir string) *instance {
	t.Helper()
	i, err := tryInstance(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.close() })
	return i
}

// fill gives an instance contents, and closes it.
func (i *instance) fill(t *testing.T) {
	t.Helper()
	if _, err := i.store.Castore().PutBlob(context.Background(), []byte("contents")); err != nil {
		t.Fatal(err)
	}
	if err := i.close(); err != nil {
		t.Fatal(err)
	}
}

// listing names everything in a folder.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// TestDatabaseGone starts on contents whose database was deleted or emptied.
func TestDatabaseGone(t *testing.T) {
	for _, how := range []string{"deleted", "emptied"} {
		dir := filepath.Join(t.TempDir(), "data")
		testInstance(t, dir).fill(t)
		db := filepath.Join(dir, "db.sqlite")
		err := os.Remove(db)
		if how == "emptied" {
			err = os.WriteFile(db, nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		before := listing(t, dir)
		if _, err := tryInstance(dir); !errors.Is(err, disk.ErrNoIndex) || !strings.Contains(err.Error(), "db.sqlite") {
			t.Errorf("database %s: %v", how, err)
		}
		if after := listing(t, dir); after != before {
			t.Errorf("database %s: a refused start leaves %s of %s", how, after, before)
		}
	}
}

func TestDatabaseDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	testInstance(t, dir).fill(t)
	if err := os.WriteFile(filepath.Join(dir, "db.sqlite"), []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := tryInstance(dir)
	if !errors.Is(err, sqldb.ErrDamaged) || !strings.Contains(err.Error(), "Put db.sqlite back") {
		t.Errorf("damaged database: %v", err)
	}
}

func TestDataIsTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	testInstance(t, dir)
	for name, want := range map[string]os.FileMode{"": os.ModeDir | 0o700, "db.sqlite": 0o600, "db.sqlite-shm": 0o600} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != want {
			t.Errorf("%q has mode %v, want %v", name, fi.Mode(), want)
		}
	}
}

func TestLockFileRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	testInstance(t, dir)
	for _, gone := range []bool{false, true} {
		if gone {
			if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tryInstance(dir); !errors.Is(err, errDataInUse) {
			t.Errorf("second instance, lock file removed %v: %v", gone, err)
		}
	}
}
