package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Delete implements pathinfo.Registry.
func (s *Service) Delete(ctx context.Context, paths []storepath.Path) error {
	if len(paths) == 0 {
		return ctx.Err()
	}
	err := s.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
		var ids []int64 // anew in each run, of which there may be two
		err := parts(tx, paths, func(tx *sqldb.Tx, _ int, part string) error {
			rows := tx.Query(queryIDs, part)
			defer rows.Close()
			for rows.Next() {
				var id int64
				if err := rows.Scan(&id); err != nil {
					return err
				}
				ids = append(ids, id)
			}
			return rows.Err()
		})
		if err != nil {
			return err
		}
		slices.Sort(ids)
		return deleteIDs(tx, slices.Compact(ids))
	})
	var inUse *pathinfo.InUseError
	if err != nil && !errors.As(err, &inUse) {
		return fmt.Errorf("delete %d paths: %w", len(paths), err)
	}
	if err == nil {
		s.logger.Debug("deleted paths", "paths", len(paths))
	}
	return err
}

// deleteIDs deletes the rows of paths. All that they refer with goes first, so
// that what is still referred to then is in use.
func deleteIDs(tx *sqldb.Tx, ids []int64) error {
	var hasRealisations bool
	if err := tx.QueryRow(queryHasRealisations).Scan(&hasRealisations); err != nil {
		return err
	}
	first := []string{deleteRefs, deleteOutputs}
	if hasRealisations {
		first = append(first, deleteRealisationRefs, deleteRealisations)
	}
	chunks := slices.Collect(slices.Chunk(ids, maxParams))
	for _, chunk := range chunks {
		for _, statement := range first {
			if _, err := tx.Exec(statement, jsonIDs(chunk)); err != nil {
				return err
			}
		}
	}
	for _, chunk := range chunks {
		if err := checkUnused(tx, jsonIDs(chunk)); err != nil {
			return err
		}
	}
	for _, chunk := range chunks {
		if _, err := tx.Exec(deletePaths, jsonIDs(chunk)); err != nil {
			return err
		}
	}
	return nil
}

func checkUnused(tx *sqldb.Tx, ids string) error {
	var path, referrer string
	err := tx.QueryRow(queryInUse, ids).Scan(&path, &referrer)
	if errors.Is(err, sqldb.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	var inUse pathinfo.InUseError
	if inUse.Path, err = storepath.ParseBase(path); err != nil {
		return err
	}
	if inUse.Referrer, err = storepath.ParseBase(referrer); err != nil {
		return err
	}
	return &inUse
}

// AddSignatures implements pathinfo.Registry.
func (s *Service) AddSignatures(ctx context.Context, path storepath.Path, signatures []string) error {
	if err := pathinfo.CheckSignatures(signatures); err != nil {
		return err
	}
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
		var id int64
		var column string
		if err := tx.QueryRow(querySignatures, path.Base()).Scan(&id, &column); err != nil {
			return err
		}
		merged := pathinfo.MergeSignatures(splitSignatures(column), signatures)
		_, err := tx.Exec(updateSignatures, joinSignatures(merged), id)
		return err
	})
	return notFound(err, path, "add signatures to")
}

// SetDrvOutputs implements pathinfo.Registry.
func (s *Service) SetDrvOutputs(ctx context.Context, drv storepath.Path, outputs map[string]storepath.Path) error {
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
		var id int64
		if err := tx.QueryRow(queryID, drv.Base()).Scan(&id); err != nil {
			return err
		}
		if _, err := tx.Exec(deleteDrvOutputs, id); err != nil {
			return err
		}
		return insertOutputs(tx, id, outputs)
	})
	return notFound(err, drv, "set outputs of")
}

func insertOutputs(tx *sqldb.Tx, id int64, outputs map[string]storepath.Path) error {
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		if _, err := tx.Exec(insertDrvOutput, id, name, outputs[name].Base()); err != nil {
			return err
		}
	}
	return nil
}

// Touch implements pathinfo.Registry.
func (s *Service) Touch(ctx context.Context, paths []storepath.Path, at time.Time) error {
	if len(paths) == 0 {
		return ctx.Err()
	}
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
		return parts(tx, paths, func(tx *sqldb.Tx, _ int, part string) error {
			_, err := tx.Exec(updateLastUse, at.Unix(), part)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("note use of %d paths: %w", len(paths), err)
	}
	return nil
}

// notFound translates the error of a change of one path.
func notFound(err error, path storepath.Path, verb string) error {
	if errors.Is(err, sqldb.ErrNoRows) {
		return pathinfo.NotFound(path)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, path, err)
	}
	return nil
}
