package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// ErrNewer is wrapped by errors about a schema that a newer program has made.
var ErrNewer = errors.New("database was written by a newer version")

const createVersions = `CREATE TABLE IF NOT EXISTS sqldb_versions (
	component TEXT PRIMARY KEY, version INTEGER NOT NULL
) STRICT, WITHOUT ROWID`

// Migrate brings the tables of a component up to date: it runs those *.sql
// files of migrations, in the order of their names, that were not run on this
// database before, each in its own transaction together with the record of it.
// Files may be added at the end, never changed.
func (db *DB) Migrate(ctx context.Context, component string, migrations fs.FS) error {
	files, err := fs.Glob(migrations, "*.sql")
	if err != nil {
		return fmt.Errorf("migrate %s: %w", component, err)
	}
	version := 0
	err = db.Reclaim(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(createVersions); err != nil {
			return err
		}
		err := tx.QueryRow("SELECT version FROM sqldb_versions WHERE component = ?", component).Scan(&version)
		if errors.Is(err, ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate %s: %w", component, err)
	}
	if version > len(files) {
		return fmt.Errorf("migrate %s: %w: schema %d, known up to %d", component, ErrNewer, version, len(files))
	}
	for i := version; i < len(files); i++ {
		script, err := fs.ReadFile(migrations, files[i])
		if err != nil {
			return fmt.Errorf("migrate %s: %w", component, err)
		}
		err = db.Reclaim(ctx, func(tx *Tx) error {
			if err := tx.c.exec(string(script)); err != nil {
				return err
			}
			_, err := tx.Exec(`INSERT INTO sqldb_versions VALUES (?, ?)
				ON CONFLICT (component) DO UPDATE SET version = excluded.version`, component, i+1)
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate %s: %s: %w", component, files[i], err)
		}
	}
	return nil
}
