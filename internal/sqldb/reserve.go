package sqldb

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reserve is a file that takes space only to give it up.
type reserve struct {
	path   string
	size   int64
	logger *slog.Logger

	mu sync.Mutex // serialises fill and free
}

// fillFactor times the size must be available before the reserve is taken
// again: on a disk that is nearly full, data comes first.
const fillFactor = 4

// fill makes the reserve if it is missing and there is space for it.
func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size <= 0 || fileSize(r.path) >= r.size {
		return
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.path[:len(r.path)-len("-reserve")], &st); err == nil {
		if int64(st.Bavail)*st.Bsize < fillFactor*r.size {
			return
		}
	}
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, fileMode)
	if err == nil {
		f.Chmod(fileMode) // whatever the umask; at worst it is narrower
		if err = unix.Fallocate(int(f.Fd()), 0, 0, r.size); errors.Is(err, unix.EOPNOTSUPP) {
			_, err = f.WriteAt(make([]byte, r.size), 0)
		}
		f.Close()
	}
	if err != nil {
		os.Remove(r.path)
		r.logger.Warn("cannot keep space in reserve", "file", r.path, "err", err)
	}
}

// free gives the reserve up and tells whether there was one.
func (r *reserve) free() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return os.Remove(r.path) == nil
}

// Reclaim is [DB.Write] for functions that delete: if it fails because the disk
// is full, the reserve file is given up and fn runs once more. The reserve comes
// back by itself when there is space again.
func (db *DB) Reclaim(ctx context.Context, fn func(tx *Tx) error) error {
	err := db.Write(ctx, fn)
	if errors.Is(err, syscall.ENOSPC) && db.FreeReserve() {
		err = db.Write(ctx, fn)
	}
	return err
}

// FreeReserve gives the reserve file up for whatever needs the space, and tells
// whether there was one.
func (db *DB) FreeReserve() bool { return db.reserve.free() }

// FillReserve takes the reserve again if there is space for it.
func (db *DB) FillReserve() { db.reserve.fill() }
