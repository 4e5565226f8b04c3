package sqlite

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Graph implements pathinfo.Relations.
func (s *Service) Graph(ctx context.Context) ([]pathinfo.PathRefs, error) {
	var g graph
	if err := s.db.Read(ctx, g.load); err != nil {
		return nil, fmt.Errorf("read reference graph: %w", err)
	}
	return g.nodes, nil
}

// graph is the reference graph while it is being read.
type graph struct {
	nodes  []pathinfo.PathRefs // sorted by path
	ids    []int64             // of nodes
	dense  []int32             // by id: the index in nodes plus one, 0 for none
	sparse map[int64]int32     // by id: the index in nodes; or dense
}

func (g *graph) load(tx *sqldb.Tx) error {
	if err := g.loadPaths(tx); err != nil {
		return err
	}
	if err := g.loadRefs(tx); err != nil {
		return err
	}
	return g.loadOutputs(tx)
}

// makeIndex makes the index once all ids are known: a slice, unless many of the
// ids were those of paths that are gone.
func (g *graph) makeIndex() {
	highest := slices.Max(append(g.ids, 0))
	if highest > int64(16*len(g.ids)+1000) {
		g.sparse = make(map[int64]int32, len(g.ids))
		for i, id := range g.ids {
			g.sparse[id] = int32(i)
		}
		return
	}
	g.dense = make([]int32, highest+1)
	for i, id := range g.ids {
		g.dense[id] = int32(i + 1)
	}
}

func (g *graph) find(id int64) (int32, bool) {
	if g.sparse != nil {
		i, ok := g.sparse[id]
		return i, ok
	}
	if id < 0 || id >= int64(len(g.dense)) || g.dense[id] == 0 {
		return 0, false
	}
	return g.dense[id] - 1, true
}

func (g *graph) loadPaths(tx *sqldb.Tx) error {
	rows := tx.Query(queryGraphPaths)
	defer rows.Close()
	for rows.Next() {
		var (
			id, registered, lastUse int64
			path, deriver           string
			n                       pathinfo.PathRefs
			err                     error
		)
		if err := rows.Scan(&id, &path, &deriver, &n.NarSize, &registered, &lastUse); err != nil {
			return err
		}
		if n.Path, err = storepath.ParseBase(path); err != nil {
			return err
		}
		if n.Deriver, err = parseOptional(deriver); err != nil {
			return err
		}
		n.RegistrationTime, n.LastUse = time.Unix(registered, 0), time.Unix(lastUse, 0)
		g.ids = append(g.ids, id)
		g.nodes = append(g.nodes, n)
	}
	g.makeIndex()
	return rows.Err()
}

func (g *graph) loadRefs(tx *sqldb.Tx) error {
	rows := tx.Query(queryGraphRefs)
	defer rows.Close()
	var order []int32 // of the references of one path: the nodes are sorted
	for rows.Next() {
		var referrer int64
		var list string
		if err := rows.Scan(&referrer, &list); err != nil {
			return err
		}
		i, ok := g.find(referrer)
		if !ok {
			return fmt.Errorf("reference of unknown path %d", referrer)
		}
		order = order[:0]
		for number := range strings.SplitSeq(list, ",") {
			id, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				return err
			}
			j, ok := g.find(id)
			if !ok {
				return fmt.Errorf("reference to unknown path %d", id)
			}
			order = append(order, j)
		}
		slices.Sort(order)
		refs := make([]storepath.Path, len(order))
		for k, j := range order {
			refs[k] = g.nodes[j].Path
		}
		g.nodes[i].References = refs
	}
	return rows.Err()
}

func (g *graph) loadOutputs(tx *sqldb.Tx) error {
	rows := tx.Query(queryGraphOutputs)
	defer rows.Close()
	for rows.Next() {
		var drv int64
		var output string
		if err := rows.Scan(&drv, &output); err != nil {
			return err
		}
		i, ok := g.find(drv)
		if !ok {
			return fmt.Errorf("output of unknown derivation %d", drv)
		}
		p, err := storepath.ParseBase(output)
		if err != nil {
			return err
		}
		g.nodes[i].Outputs = append(g.nodes[i].Outputs, p)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for i := range g.nodes {
		storepath.Sort(g.nodes[i].Outputs)
	}
	return nil
}

// References implements pathinfo.Relations.
func (s *Service) References(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error) {
	refs := make([][]storepath.Path, len(paths))
	err := s.inParts(ctx, paths, func(tx *sqldb.Tx, from int, part string) error {
		rows := tx.Query(queryReferences, part)
		defer rows.Close()
		for rows.Next() {
			var i int
			var base string
			if err := rows.Scan(&i, &base); err != nil {
				return err
			}
			p, err := storepath.ParseBase(base)
			if err != nil {
				return err
			}
			refs[from+i] = append(refs[from+i], p)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("get references of %d paths: %w", len(paths), err)
	}
	for _, r := range refs {
		storepath.Sort(r)
	}
	return refs, nil
}

// Referrers implements pathinfo.Relations.
func (s *Service) Referrers(ctx context.Context, path storepath.Path) ([]storepath.Path, error) {
	referrers, err := s.pathsOf(ctx, queryReferrers, path)
	if err != nil {
		return nil, fmt.Errorf("get referrers of %s: %w", path, err)
	}
	return referrers, nil
}

// Closure implements pathinfo.Relations.
func (s *Service) Closure(ctx context.Context, paths []storepath.Path, reverse bool) (closure []storepath.Path, err error) {
	query := queryClosure
	if reverse {
		query = queryReverseClosure
	}
	err = s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		closure, err = scanPaths(tx.Query(query, jsonPaths(paths)), false)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get closure of %d paths: %w", len(paths), err)
	}
	return closure, nil
}

// Derivers implements pathinfo.Relations.
func (s *Service) Derivers(ctx context.Context, output storepath.Path) ([]storepath.Path, error) {
	derivers, err := s.pathsOf(ctx, queryDerivers, output)
	if err != nil {
		return nil, fmt.Errorf("get derivers of %s: %w", output, err)
	}
	// A derivation that has the path as two of its outputs is one deriver.
	return storepath.SortUnique(derivers), nil
}

func (s *Service) pathsOf(ctx context.Context, query string, path storepath.Path) (paths []storepath.Path, err error) {
	err = s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		paths, err = scanPaths(tx.Query(query, path.Base()), false)
		return err
	})
	return paths, err
}

// DrvOutputs implements pathinfo.Relations.
func (s *Service) DrvOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	outputs := make(map[string]storepath.Path)
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		var id int64
		if err := tx.QueryRow(queryID, drv.Base()).Scan(&id); err != nil {
			return err
		}
		rows := tx.Query(queryDrvOutputs, id)
		defer rows.Close()
		for rows.Next() {
			var name, output string
			if err := rows.Scan(&name, &output); err != nil {
				return err
			}
			p, err := storepath.ParseBase(output)
			if err != nil {
				return err
			}
			outputs[name] = p
		}
		return rows.Err()
	})
	if errors.Is(err, sqldb.ErrNoRows) {
		return nil, pathinfo.NotFound(drv)
	}
	if err != nil {
		return nil, fmt.Errorf("get outputs of %s: %w", drv, err)
	}
	return outputs, nil
}

// Roots implements pathinfo.Relations.
func (s *Service) Roots(ctx context.Context) iter.Seq2[castore.Node, error] {
	return func(yield func(castore.Node, error) bool) {
		var after int64
		for {
			page, last, err := s.rootsPage(ctx, after)
			if err != nil {
				yield(castore.Node{}, fmt.Errorf("list roots: %w", err))
				return
			}
			for _, n := range page {
				if !yield(n, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			after = last
		}
	}
}

func (s *Service) rootsPage(ctx context.Context, after int64) (page []castore.Node, last int64, err error) {
	err = s.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		rows := tx.Query(queryRootsAfter, after, pageSize)
		defer rows.Close()
		for rows.Next() {
			var root []byte
			if err := rows.Scan(&last, &root); err != nil {
				return err
			}
			n, err := castore.UnmarshalNode(root)
			if err != nil {
				return fmt.Errorf("row %d: %w", last, err)
			}
			page = append(page, n)
		}
		return rows.Err()
	})
	return page, last, err
}
