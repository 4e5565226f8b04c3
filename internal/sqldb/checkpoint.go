package sqldb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// logHardFactor times CheckpointBytes is the size of the write-ahead log at
// which writers wait for a checkpoint.
const logHardFactor = 8

// limitLog starts a checkpoint after a commit if the log has grown long. A
// passive checkpoint disturbs neither readers nor the writer; the writer runs
// it itself only when the other one does not keep up.
func (db *DB) limitLog(c *conn) {
	size := fileSize(db.path + "-wal")
	switch {
	case size <= db.opts.CheckpointBytes:
	case size > logHardFactor*db.opts.CheckpointBytes:
		db.runCheckpoint(c)
	default:
		select {
		case db.checkpoint <- struct{}{}:
		default:
		}
	}
}

// checkpointLoop owns the connection that makes checkpoints.
func (db *DB) checkpointLoop(c *conn) {
	defer db.wg.Done()
	defer c.close()
	for {
		select {
		case <-db.checkpoint:
			db.runCheckpoint(c)
			db.reserve.fill()
		case <-db.closing:
			return
		}
	}
}

// runCheckpoint makes a passive checkpoint. Only one can run at a time: SQLite
// would let the second do nothing, and the writer must not go on then.
func (db *DB) runCheckpoint(c *conn) {
	db.checkpointMu.Lock()
	defer db.checkpointMu.Unlock()
	if err := c.exec("PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		db.opts.Logger.Warn("checkpoint failed", "database", db.path, "err", err)
	}
}

// Flush makes everything durable that was committed before: after a loss of power
// it is still there. It is for those who are about to destroy, outside of the
// database, what only an older state of it would need.
func (db *DB) Flush() error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	// What is not in the log any more was made durable when it left it. SQLite
	// takes no locks on the log, which closing a file would drop.
	f, err := os.Open(db.path + "-wal")
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was committed since the database was opened
	}
	if err != nil {
		return fmt.Errorf("flush database: %w", err)
	}
	defer f.Close()
	dir, err := os.Open(filepath.Dir(db.path))
	if err != nil {
		return fmt.Errorf("flush database: %w", err)
	}
	defer dir.Close()
	if err := errors.Join(f.Sync(), dir.Sync()); err != nil {
		return fmt.Errorf("flush database: %w", err)
	}
	return nil
}

// shrinkStep is the number of pages that one step of Shrink gives back.
const shrinkStep = 2048

// Shrink gives free pages back to the file system, in steps between which
// others can write, until less than an eighth of the database is free.
func (db *DB) Shrink(ctx context.Context) error {
	for {
		var pages, free int64
		err := db.Write(ctx, func(tx *Tx) error {
			if err := tx.QueryRow("PRAGMA page_count").Scan(&pages); err != nil {
				return err
			}
			if err := tx.QueryRow("PRAGMA freelist_count").Scan(&free); err != nil {
				return err
			}
			if free < pages/8 || free == 0 {
				free = 0
				return nil
			}
			rows := tx.Query(fmt.Sprintf("PRAGMA incremental_vacuum(%d)", shrinkStep))
			defer rows.Close()
			for rows.Next() {
			}
			return rows.Err()
		})
		if err != nil {
			return fmt.Errorf("shrink database: %w", err)
		}
		if free == 0 {
			return nil
		}
	}
}
