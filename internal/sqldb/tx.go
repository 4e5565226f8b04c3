package sqldb

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/mattn/go-sqlite3"
)

// Tx gives access to the database within [DB.Write], [DB.Read] or [DB.Lookup].
// It is used by one goroutine and ends with the function that it was given to.
//
// Arguments may be nil, strings, []byte (nil is NULL), bool, and integers. A
// uint64 above 2^63 is stored as a negative number and scanned back.
type Tx struct {
	c *conn
}

// Result tells what a statement changed.
type Result struct {
	LastInsertID int64
	RowsAffected int64
}

// maxArgs is the number of arguments that need no allocation.
const maxArgs = 12

// Exec runs one statement.
func (tx *Tx) Exec(query string, args ...any) (Result, error) {
	s, err := tx.c.prepare(query)
	if err != nil {
		return Result{}, fmt.Errorf("prepare %q: %w", query, err)
	}
	defer tx.c.release(query, s)
	var buf [maxArgs]driver.Value
	vals, err := values(buf[:0], args)
	if err != nil {
		return Result{}, fmt.Errorf("execute %q: %w", query, err)
	}
	res, err := s.s.Exec(vals)
	if err != nil {
		return Result{}, fmt.Errorf("execute %q: %w", query, translate(err))
	}
	id, _ := res.LastInsertId()
	n, _ := res.RowsAffected()
	return Result{LastInsertID: id, RowsAffected: n}, nil
}

// Query runs a query. The rows must be closed, and no statement may change the
// table before they are.
//
//	rows := tx.Query("SELECT …", …)
//	defer rows.Close()
//	for rows.Next() {
//		if err := rows.Scan(…); err != nil { … }
//	}
//	return rows.Err()
func (tx *Tx) Query(query string, args ...any) *Rows {
	r := &Rows{tx: tx, query: query}
	r.open(args)
	return r
}

// QueryRow runs a query of which only the first row is wanted.
func (tx *Tx) QueryRow(query string, args ...any) *Row {
	r := &Row{rows: Rows{tx: tx, query: query}}
	r.rows.open(args)
	return r
}

// Rows iterates over the result of a query.
type Rows struct {
	tx    *Tx
	query string
	stmt  *stmt
	rows  *sqlite3.SQLiteRows
	vals  []driver.Value
	err   error
}

func (r *Rows) open(args []any) {
	s, err := r.tx.c.prepare(r.query)
	if err != nil {
		r.err = fmt.Errorf("prepare %q: %w", r.query, err)
		return
	}
	r.stmt = s
	var buf [maxArgs]driver.Value
	vals, err := values(buf[:0], args)
	if err == nil {
		var rows driver.Rows
		if rows, err = s.s.Query(vals); err == nil {
			r.rows = rows.(*sqlite3.SQLiteRows)
			r.vals = make([]driver.Value, len(rows.Columns()))
			return
		}
	}
	r.err = fmt.Errorf("query %q: %w", r.query, translate(err))
	r.Close()
}

// Next moves to the next row. It returns false at the end and after an error.
func (r *Rows) Next() bool {
	if r.err != nil || r.rows == nil {
		return false
	}
	err := r.rows.Next(r.vals)
	if err == nil {
		return true
	}
	if !errors.Is(err, io.EOF) {
		r.err = fmt.Errorf("query %q: %w", r.query, translate(err))
	}
	r.Close()
	return false
}

// Scan copies the columns of the row. Targets may be *string, *[]byte (nil for
// NULL; owned by the caller), *bool, *int, *int64, *uint64, *uint32, or a
// []byte of exactly the length of the value, which is filled. NULL gives the
// zero value.
func (r *Rows) Scan(targets ...any) error {
	if r.err != nil {
		return r.err
	}
	if len(targets) != len(r.vals) {
		return fmt.Errorf("scan %q: %d targets for %d columns", r.query, len(targets), len(r.vals))
	}
	for i, t := range targets {
		if err := assign(t, r.vals[i]); err != nil {
			return fmt.Errorf("scan %q: column %d: %w", r.query, i+1, err)
		}
	}
	return nil
}

// Err returns the error that ended the iteration, if one did.
func (r *Rows) Err() error { return r.err }

// Close ends the query. Closing twice is harmless.
func (r *Rows) Close() {
	if r.rows != nil {
		r.rows.Close()
		r.rows = nil
	}
	if r.stmt != nil {
		r.tx.c.release(r.query, r.stmt)
		r.stmt = nil
	}
}

// Row is the first row of a query.
type Row struct {
	rows Rows
}

// Scan copies the columns of the row as [Rows.Scan] does, or returns
// [ErrNoRows]. It must be called exactly once.
func (r *Row) Scan(targets ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if r.rows.err != nil {
			return r.rows.err
		}
		return ErrNoRows
	}
	return r.rows.Scan(targets...)
}

var errScan = errors.New("value does not fit the target")

func assign(target any, v driver.Value) error {
	switch t := target.(type) {
	case *string:
		switch v := v.(type) {
		case string:
			*t = v
			return nil
		case []byte:
			*t = string(v)
			return nil
		case nil:
			*t = ""
			return nil
		}
	case *[]byte:
		switch v := v.(type) {
		case []byte:
			*t = v
			return nil
		case string:
			*t = []byte(v)
			return nil
		case nil:
			*t = nil
			return nil
		}
	case []byte:
		if v, ok := v.([]byte); ok && len(v) == len(t) {
			copy(t, v)
			return nil
		}
	default:
		return assignNumber(target, v)
	}
	return fmt.Errorf("%w: %T into %T", errScan, v, target)
}

func assignNumber(target any, v driver.Value) error {
	var n int64
	switch v := v.(type) {
	case int64:
		n = v
	case bool:
		if v {
			n = 1
		}
	case nil:
	default:
		return fmt.Errorf("%w: %T into %T", errScan, v, target)
	}
	switch t := target.(type) {
	case *int64:
		*t = n
	case *int:
		*t = int(n)
	case *uint64:
		*t = uint64(n)
	case *uint32:
		if n < 0 || n > 1<<32-1 {
			return fmt.Errorf("%w: %d into %T", errScan, n, target)
		}
		*t = uint32(n)
	case *bool:
		*t = n != 0
	default:
		return fmt.Errorf("%w: %T into %T", errScan, v, target)
	}
	return nil
}
