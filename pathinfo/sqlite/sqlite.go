// Package sqlite keeps path metadata in an SQLite database, which it may share
// with others. The schema is in the folder schema, one file a migration, with
// the meaning of each column.
//
// A method that changes something returns after the commit of its
// transaction; see sqldb for what that means when the power fails.
package sqlite

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo"
)

//go:embed schema/*.sql
var schema embed.FS

// component names our tables among those of the database.
const component = "pathinfo"

// Service is a pathinfo.Service in a database.
type Service struct {
	db     *sqldb.DB
	logger *slog.Logger
	now    func() time.Time
}

var _ pathinfo.Service = (*Service)(nil)

// New returns a service in db, whose schema it creates or brings up to date.
// The database stays the caller's, who closes it after the last call. A nil
// logger discards.
func New(ctx context.Context, db *sqldb.DB, logger *slog.Logger) (*Service, error) {
	files, err := fs.Sub(schema, "schema")
	if err != nil {
		return nil, fmt.Errorf("open path info database: %w", err)
	}
	if err := db.Migrate(ctx, component, files); err != nil {
		return nil, fmt.Errorf("open path info database: %w", err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Service{db: db, logger: logger, now: time.Now}, nil
}
