package sqlite

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

const (
	// maxParams bounds the paths in one JSON array.
	maxParams = 10_000

	// pageSize is the number of rows that the iterators read at a time, so
	// that no snapshot lives as long as the loop over them.
	pageSize = 500
)

// Get implements pathinfo.Reader.
func (s *Service) Get(ctx context.Context, path storepath.Path) (info *pathinfo.PathInfo, err error) {
	err = s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		info, err = scanInfo(tx.QueryRow(queryInfo, path.Base()).Scan)
		return err
	})
	if errors.Is(err, sqldb.ErrNoRows) {
		return nil, pathinfo.NotFound(path)
	}
	if err != nil {
		return nil, fmt.Errorf("get path %s: %w", path, err)
	}
	return info, nil
}

// GetByHashPart implements pathinfo.Reader.
func (s *Service) GetByHashPart(ctx context.Context, digest [20]byte) (info *pathinfo.PathInfo, err error) {
	prefix := string(nixhash.AppendNix32(nil, digest[:]))
	err = s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		info, err = scanInfo(tx.QueryRow(queryInfoByHash, prefix+"-", prefix+".").Scan)
		return err
	})
	if errors.Is(err, sqldb.ErrNoRows) {
		return nil, fmt.Errorf("path with digest %s: %w", hex.EncodeToString(digest[:]), pathinfo.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("get path %s: %w", prefix, err)
	}
	return info, nil
}

// GetMany implements pathinfo.Reader.
func (s *Service) GetMany(ctx context.Context, paths []storepath.Path) ([]*pathinfo.PathInfo, error) {
	infos := make([]*pathinfo.PathInfo, len(paths))
	err := s.inParts(ctx, paths, func(tx *sqldb.Tx, from int, part string) error {
		rows := tx.Query(queryInfos, part)
		defer rows.Close()
		for rows.Next() {
			var i int
			info, err := scanInfo(rows.Scan, &i)
			if err != nil {
				return err
			}
			infos[from+i] = info
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("get %d paths: %w", len(paths), err)
	}
	return infos, nil
}

// inParts runs a query for many paths in one consistent state. fn gets a part
// of paths as JSON and the index of its first one.
func (s *Service) inParts(
	ctx context.Context,
	paths []storepath.Path,
	fn func(tx *sqldb.Tx, from int, part string) error,
) error {
	if len(paths) == 0 {
		return ctx.Err()
	}
	read := s.db.Read
	if len(paths) <= maxParams {
		read = s.db.Lookup // one query needs no transaction
	}
	return read(ctx, func(tx *sqldb.Tx) error { return parts(tx, paths, fn) })
}

func parts(tx *sqldb.Tx, paths []storepath.Path, fn func(tx *sqldb.Tx, from int, part string) error) error {
	for from := 0; from < len(paths); from += maxParams {
		part := paths[from:min(from+maxParams, len(paths))]
		if err := fn(tx, from, jsonPaths(part)); err != nil {
			return err
		}
	}
	return nil
}

// Root implements pathinfo.Reader.
func (s *Service) Root(ctx context.Context, path storepath.Path) (castore.Node, error) {
	var root []byte
	err := s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(queryRoot, path.Base()).Scan(&root)
	})
	if errors.Is(err, sqldb.ErrNoRows) {
		return castore.Node{}, pathinfo.NotFound(path)
	}
	if err != nil {
		return castore.Node{}, fmt.Errorf("get root of path %s: %w", path, err)
	}
	node, err := castore.UnmarshalNode(root)
	if err != nil {
		return castore.Node{}, fmt.Errorf("row of path %s: root: %w", path, err)
	}
	return node, nil
}

// Valid implements pathinfo.Reader.
func (s *Service) Valid(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	if len(paths) == 1 {
		return s.validOne(ctx, paths)
	}
	ok := make([]bool, len(paths))
	n := 0
	err := s.inParts(ctx, paths, func(tx *sqldb.Tx, from int, part string) error {
		rows := tx.Query(queryValid, part)
		defer rows.Close()
		for rows.Next() {
			var i int
			if err := rows.Scan(&i); err != nil {
				return err
			}
			ok[from+i] = true
			n++
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("look up %d paths: %w", len(paths), err)
	}
	valid := make([]storepath.Path, 0, n)
	for i, p := range paths {
		if ok[i] {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

func (s *Service) validOne(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	var valid bool
	err := s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(queryIsValid, paths[0].Base()).Scan(&valid)
	})
	if err != nil {
		return nil, fmt.Errorf("look up path %s: %w", paths[0], err)
	}
	if !valid {
		return nil, nil
	}
	return []storepath.Path{paths[0]}, nil
}

// Paths implements pathinfo.Reader.
func (s *Service) Paths(ctx context.Context) (paths []storepath.Path, err error) {
	err = s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		paths, err = scanPaths(tx.Query(queryPaths), true)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list paths: %w", err)
	}
	return paths, nil
}

// All implements pathinfo.Reader.
func (s *Service) All(ctx context.Context) iter.Seq2[*pathinfo.PathInfo, error] {
	return func(yield func(*pathinfo.PathInfo, error) bool) {
		after := ""
		for {
			page, err := s.page(ctx, after)
			if err != nil {
				yield(nil, fmt.Errorf("list paths: %w", err))
				return
			}
			for _, info := range page {
				if !yield(info, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			after = page[len(page)-1].Path.Base()
		}
	}
}

func (s *Service) page(ctx context.Context, after string) (page []*pathinfo.PathInfo, err error) {
	err = s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		rows := tx.Query(queryInfosAfter, after, pageSize)
		defer rows.Close()
		for rows.Next() {
			info, err := scanInfo(rows.Scan)
			if err != nil {
				return err
			}
			page = append(page, info)
		}
		return rows.Err()
	})
	return page, err
}
