package sqldb

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"

	"github.com/mattn/go-sqlite3"
)

// conn is a connection with its prepared statements, used by one goroutine at
// a time.
type conn struct {
	c     *sqlite3.SQLiteConn
	stmts map[string]*stmt
}

// stmt is a prepared statement. It is busy while rows of it are open.
type stmt struct {
	s    *sqlite3.SQLiteStmt
	busy bool
}

// busyMillis is how long a connection waits for a lock. No connection of ours
// holds one for long; another program might.
const busyMillis = 60_000

// openConn opens a connection. Each is used by one goroutine at a time, so
// SQLite's own mutexes are switched off.
func openConn(path string, opts Options, writable bool) (*conn, error) {
	keepPlansStable()
	dsn := (&url.URL{Scheme: "file", OmitHost: true, Path: path}).String() + "?_mutex=no"
	dc, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, translate(err)
	}
	c := &conn{c: dc.(*sqlite3.SQLiteConn), stmts: make(map[string]*stmt)}
	// Temporary tables stay in memory: a full or missing /tmp cannot hurt, and
	// no query of ours sorts much. The page cache is given in KiB, negated.
	pragmas := fmt.Sprintf(`
		PRAGMA busy_timeout = %d;
		PRAGMA temp_store = MEMORY;
		PRAGMA foreign_keys = ON;
		PRAGMA cache_size = -%d;`, busyMillis, opts.CacheBytes>>10)
	if writable {
		// auto_vacuum must come before the first page is written.
		pragmas += fmt.Sprintf(`
		PRAGMA auto_vacuum = INCREMENTAL;
		PRAGMA journal_mode = WAL;
		PRAGMA synchronous = NORMAL;
		PRAGMA wal_autocheckpoint = 0;
		PRAGMA journal_size_limit = %d;`, opts.CheckpointBytes)
	} else {
		pragmas += `PRAGMA query_only = ON;`
	}
	if err := c.exec(pragmas); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() {
	for _, s := range c.stmts {
		s.s.Close()
	}
	c.c.Close()
}

// exec runs statements without arguments, and without caching them.
func (c *conn) exec(sql string) error {
	_, err := c.c.Exec(sql, nil)
	return translate(err)
}

// rollback ends a transaction, if there still is one. SQLite rolls back by
// itself after some errors.
func (c *conn) rollback() {
	if !c.c.AutoCommit() {
		c.simple("ROLLBACK")
	}
}

// simple runs a cached statement without arguments.
func (c *conn) simple(query string) error {
	_, err := (&Tx{c: c}).Exec(query)
	return err
}

// prepare returns the statement of a query, which must be released.
func (c *conn) prepare(query string) (*stmt, error) {
	cached, known := c.stmts[query]
	if known && !cached.busy {
		cached.busy = true
		return cached, nil
	}
	ds, err := c.c.Prepare(query)
	if err != nil {
		return nil, translate(err)
	}
	s := &stmt{s: ds.(*sqlite3.SQLiteStmt), busy: true}
	if !known {
		c.stmts[query] = s
	}
	return s, nil
}

// release makes a statement ready for its next use. One that was prepared
// because the cached one was busy is closed.
func (c *conn) release(query string, s *stmt) {
	if c.stmts[query] != s {
		s.s.Close()
		return
	}
	s.busy = false
}

var errArgument = errors.New("argument of unsupported type")

// values converts arguments to what the driver takes.
func values(dst []driver.Value, args []any) ([]driver.Value, error) {
	for i, arg := range args {
		switch v := arg.(type) {
		case nil, int64, string, []byte, bool, float64:
			dst = append(dst, v)
		case int:
			dst = append(dst, int64(v))
		case uint64:
			// Stored as the signed number of the same bits; Scan undoes it.
			dst = append(dst, int64(v))
		case uint32:
			dst = append(dst, int64(v))
		case uint8:
			dst = append(dst, int64(v))
		default:
			return nil, fmt.Errorf("argument %d: %w: %T", i+1, errArgument, arg)
		}
	}
	return dst, nil
}
