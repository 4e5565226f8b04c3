package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Realisation implements pathinfo.Realisations.
func (s *Service) Realisation(ctx context.Context, id string) (r *pathinfo.Realisation, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		var rowID int64
		if r, rowID, err = loadRealisation(tx, id); err != nil {
			return err
		}
		r.DependentRealisations, err = loadDependencies(tx, rowID)
		return err
	})
	if errors.Is(err, sqldb.ErrNoRows) {
		return nil, fmt.Errorf("realisation %q: %w", id, pathinfo.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("get realisation %q: %w", id, err)
	}
	return r, nil
}

// loadRealisation reads a realisation without what it depends on.
func loadRealisation(tx *sqldb.Tx, id string) (*pathinfo.Realisation, int64, error) {
	var (
		rowID            int64
		path, signatures string
	)
	if err := tx.QueryRow(queryRealisation, id).Scan(&rowID, &path, &signatures); err != nil {
		return nil, 0, err
	}
	p, err := storepath.ParseBase(path)
	if err != nil {
		return nil, 0, err
	}
	return &pathinfo.Realisation{ID: id, OutPath: p, Signatures: splitSignatures(signatures)}, rowID, nil
}

func loadDependencies(tx *sqldb.Tx, rowID int64) (map[string]storepath.Path, error) {
	deps := make(map[string]storepath.Path)
	rows := tx.Query(queryRealisationRefs, rowID)
	defer rows.Close()
	for rows.Next() {
		var id, path string
		if err := rows.Scan(&id, &path); err != nil {
			return nil, err
		}
		p, err := storepath.ParseBase(path)
		if err != nil {
			return nil, err
		}
		deps[id] = p
	}
	return deps, rows.Err()
}

// PutRealisation implements pathinfo.Realisations.
func (s *Service) PutRealisation(ctx context.Context, r pathinfo.Realisation) error {
	if err := pathinfo.CheckSignatures(r.Signatures); err != nil {
		return err
	}
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error { return putRealisation(tx, &r) })
	var (
		invalid  *pathinfo.InvalidReferenceError
		conflict *pathinfo.RealisationConflictError
	)
	if err != nil && !errors.As(err, &invalid) && !errors.As(err, &conflict) {
		return fmt.Errorf("register realisation %q: %w", r.ID, err)
	}
	return err
}

func putRealisation(tx *sqldb.Tx, r *pathinfo.Realisation) error {
	var pathID int64
	err := tx.QueryRow(queryID, r.OutPath.Base()).Scan(&pathID)
	if errors.Is(err, sqldb.ErrNoRows) {
		return &pathinfo.InvalidReferenceError{Path: r.OutPath, Reference: r.OutPath}
	}
	if err != nil {
		return err
	}
	rowID, err := putRealisationRow(tx, r, pathID)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(r.DependentRealisations)) {
		want := r.DependentRealisations[id]
		dep, depID, err := loadRealisation(tx, id)
		if errors.Is(err, sqldb.ErrNoRows) {
			return &pathinfo.RealisationConflictError{ID: r.ID, Dependency: id, Want: want}
		}
		if err != nil {
			return err
		}
		if dep.OutPath != want {
			return &pathinfo.RealisationConflictError{ID: r.ID, Dependency: id, Have: dep.OutPath, Want: want}
		}
		if _, err := tx.Exec(insertRealisationRef, rowID, depID); err != nil {
			return err
		}
	}
	return nil
}

func putRealisationRow(tx *sqldb.Tx, r *pathinfo.Realisation, pathID int64) (int64, error) {
	old, rowID, err := loadRealisation(tx, r.ID)
	if errors.Is(err, sqldb.ErrNoRows) {
		res, err := tx.Exec(insertRealisation, r.ID, pathID,
			joinSignatures(pathinfo.MergeSignatures(r.Signatures, nil)))
		return res.LastInsertID, err
	}
	if err != nil {
		return 0, err
	}
	if old.OutPath != r.OutPath {
		return 0, &pathinfo.RealisationConflictError{ID: r.ID, Have: old.OutPath, Want: r.OutPath}
	}
	_, err = tx.Exec(updateRealisationSignatures,
		joinSignatures(pathinfo.MergeSignatures(old.Signatures, r.Signatures)), rowID)
	return rowID, err
}
