package sqldb

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mattn/go-sqlite3"
)

// ErrNoRows is returned by [Row.Scan] when the query has no row.
var ErrNoRows = errors.New("no rows")

// ErrConstraint is wrapped by errors of statements that break a constraint of
// the schema, such as uniqueness or a foreign key.
var ErrConstraint = errors.New("constraint failed")

// ErrDamaged is wrapped by errors about a file that is no database, or not a whole
// one.
var ErrDamaged = errors.New("database is damaged")

// translate gives an error of the driver the identity by which callers test
// it. This is the only place that looks at the driver's errors.
func translate(err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Code == sqlite3.ErrFull, isForSpace(e):
		return fmt.Errorf("%w: %w", syscall.ENOSPC, err)
	case e.Code == sqlite3.ErrCorrupt, e.Code == sqlite3.ErrNotADB:
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case e.Code == sqlite3.ErrConstraint:
		return fmt.Errorf("%w: %w", ErrConstraint, err)
	}
	return err
}

// isForSpace tells whether a file could not be made or extended for want of space.
func isForSpace(e sqlite3.Error) bool {
	if e.Code != sqlite3.ErrIoErr && e.Code != sqlite3.ErrCantOpen {
		return false
	}
	return e.SystemErrno == syscall.ENOSPC || e.SystemErrno == syscall.EDQUOT
}
