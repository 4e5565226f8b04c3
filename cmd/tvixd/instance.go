package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore/disk"
	"github.com/tvixd/tvixd/daemon"
	"github.com/tvixd/tvixd/gc"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo/sqlite"
	"github.com/tvixd/tvixd/store"
)

// errDataInUse means that another process has the data folder.
var errDataInUse = errors.New("in use by another tvixd")

// instance is a store, opened on its data folder by this process alone:
//
//	DIR             locked (flock) while the store is open
//	DIR/lock        the process that has it
//	DIR/db.sqlite   path metadata, and the index of the contents
//	DIR/castore     contents
//	DIR/builds      where builders work
type instance struct {
	dir       string
	store     *store.Store
	collector *gc.Collector
	logger    *slog.Logger
	closers   []io.Closer // in the order in which they were opened
}

// openInstance opens the store in dir, making a new one if there is none.
func openInstance(ctx context.Context, dir string, layout daemon.Layout, logger *slog.Logger) (_ *instance, err error) {
	if err := layout.RefuseInside("the data folder", dir); err != nil {
		return nil, err
	}
	// Contents are read by way of the mount, with its modes; this folder is the owner's alone.
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o700) // whatever the umask, or whoever has made it
	}
	if err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	}
	i := &instance{dir: dir, logger: logger}
	defer func() {
		if errors.Is(err, sqldb.ErrDamaged) {
			err = fmt.Errorf("%w. Put db.sqlite back from a copy, without db.sqlite-wal and db.sqlite-shm: the contents "+
				"in castore/packs can be indexed anew, but the metadata of the paths is in db.sqlite alone", err)
		}
		if err != nil {
			err = errors.Join(err, i.close())
		}
	}()
	lock, err := lockData(dir)
	if err != nil {
		return nil, err
	}
	i.closers = append(i.closers, lock)
	db, err := openDatabase(dir, logger)
	if err != nil {
		return nil, err
	}
	i.closers = append(i.closers, db)
	contents, err := disk.Open(ctx, disk.Options{Dir: filepath.Join(dir, "castore"), DB: db, Logger: logger})
	if err != nil {
		return nil, err
	}
	i.closers = append(i.closers, contents)
	infos, err := sqlite.New(ctx, db, logger)
	if err != nil {
		return nil, err
	}
	i.store = store.New(store.Options{Dir: layout.Store, Castore: contents, PathInfo: infos, Logger: logger})
	i.collector = gc.New(gc.Options{
		Store:    i.store,
		StateDir: layout.StateDir,
		Logger:   logger,
	})
	return i, nil
}

// openDatabase opens the database in the data folder, or makes a new one, unless there are contents
// that need the one that was there.
func openDatabase(dir string, logger *slog.Logger) (*sqldb.DB, error) {
	file := filepath.Join(dir, "db.sqlite")
	if fi, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0 {
		if err := disk.CheckIndex(filepath.Join(dir, "castore")); err != nil {
			return nil, err
		}
	}
	return sqldb.Open(file, sqldb.Options{Logger: logger})
}

// close makes everything durable. Nothing may use the store any more.
func (i *instance) close() error {
	var errs []error
	for n := len(i.closers) - 1; n >= 0; n-- {
		errs = append(errs, i.closers[n].Close())
	}
	i.closers = nil
	return errors.Join(errs...)
}

// lockData takes the data folder for this process, and leaves word who has it. The lock is on the
// folder itself: a file could be removed, and a second process lock another one.
func lockData(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	word := filepath.Join(dir, "lock")
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
		}
		owner, err := os.ReadFile(word)
		if err != nil {
			owner = []byte("unknown")
		}
		return nil, fmt.Errorf("data folder %s: %w, process %s", dir, errDataInUse, strings.TrimSpace(string(owner)))
	}
	// It is only word: a full disk, say, does not matter.
	_ = os.WriteFile(word, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	return f, nil
}
