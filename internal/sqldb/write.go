package sqldb

import (
	"context"
	"fmt"
	"sync/atomic"
)

// maxBatch bounds the functions that share one transaction, so that the first
// does not wait long for the last.
const maxBatch = 256

// writeRequest is one call of Write. Its state says who decides: the caller,
// who may give up while it is waiting, or the writer.
type writeRequest struct {
	ctx   context.Context
	fn    func(tx *Tx) error
	state atomic.Int32
	done  chan struct{}
	// Results, read after done.
	err      error
	panicked any
}

const (
	stateWaiting int32 = iota
	stateRunning
	stateGivenUp
)

// Write runs fn in a transaction and returns after its commit. If fn fails, or
// panics, its changes are undone and Write returns the error, or panics.
// Concurrent calls share transactions without seeing each other's failures. fn
// must not call the DB itself and should be brief: nobody else writes meanwhile.
//
// The context can end the waiting for one's turn; once fn has begun, it runs.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.enter(); err != nil {
		return err
	}
	defer db.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	req := &writeRequest{ctx: ctx, fn: fn, done: make(chan struct{})}
	select {
	case db.writes <- req:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-req.done:
	case <-ctx.Done():
		if req.state.CompareAndSwap(stateWaiting, stateGivenUp) {
			return ctx.Err()
		}
		<-req.done
	}
	if req.panicked != nil {
		panic(req.panicked)
	}
	return req.err
}

// writeLoop owns the writing connection.
func (db *DB) writeLoop(c *conn) {
	defer close(db.written)
	defer c.close()
	batch := make([]*writeRequest, 0, maxBatch)
	for {
		select {
		case req := <-db.writes:
			batch = append(batch[:0], req)
		case <-db.closeWriter:
			return
		}
	more:
		for len(batch) < maxBatch {
			select {
			case req := <-db.writes:
				batch = append(batch, req)
			default:
				break more
			}
		}
		runBatch(c, batch)
		db.limitLog(c)
	}
}

// runBatch runs the functions that are still wanted in one transaction.
func runBatch(c *conn, batch []*writeRequest) {
	wanted := batch[:0]
	for _, req := range batch {
		if req.state.CompareAndSwap(stateWaiting, stateRunning) {
			wanted = append(wanted, req)
		}
	}
	if len(wanted) == 0 {
		return
	}
	err := c.simple("BEGIN IMMEDIATE")
	if err == nil {
		if err = runAll(c, wanted); err == nil {
			err = c.simple("COMMIT")
		}
		if err != nil {
			c.rollback()
		}
	}
	for _, req := range wanted {
		if err != nil && req.err == nil && req.panicked == nil {
			req.err = fmt.Errorf("commit: %w", err)
		}
		close(req.done)
	}
}

// runAll runs each function in a savepoint. An error is one that ended the
// whole transaction.
func runAll(c *conn, batch []*writeRequest) error {
	for _, req := range batch {
		if err := c.simple("SAVEPOINT call"); err != nil {
			return err
		}
		runOne(c, req)
		failed := req.err != nil || req.panicked != nil
		if c.c.AutoCommit() {
			// SQLite has rolled everything back, as it does when the disk
			// is full.
			if req.err != nil {
				return req.err
			}
			return fmt.Errorf("transaction ended early")
		}
		if failed {
			if err := c.simple("ROLLBACK TO call"); err != nil {
				return err
			}
		}
		if err := c.simple("RELEASE call"); err != nil {
			return err
		}
	}
	return nil
}

func runOne(c *conn, req *writeRequest) {
	defer func() { req.panicked = recover() }()
	req.err = req.fn(&Tx{c: c})
}
