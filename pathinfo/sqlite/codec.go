package sqlite

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// scanInfo reads infoColumns from the row, after the given columns.
func scanInfo(scan func(...any) error, before ...any) (*pathinfo.PathInfo, error) {
	var (
		path, deriver, ca, signatures, refs string
		root, narHash                       []byte
		registered                          int64
		info                                pathinfo.PathInfo
	)
	targets := append(before, &path, &root, &narHash, &info.NarSize, &deriver, &ca, &signatures,
		&info.Ultimate, &registered, &refs)
	if err := scan(targets...); err != nil {
		return nil, err
	}
	var err error
	if info.Path, err = storepath.ParseBase(path); err != nil {
		return nil, fmt.Errorf("row of path %q: %w", path, err)
	}
	fail := func(what string, err error) (*pathinfo.PathInfo, error) {
		return nil, fmt.Errorf("row of path %s: %s: %w", path, what, err)
	}
	if info.Root, err = castore.UnmarshalNode(root); err != nil {
		return fail("root", err)
	}
	if info.NarHash, err = nixhash.FromBytes(nixhash.SHA256, narHash); err != nil {
		return fail("NAR hash", err)
	}
	if info.Deriver, err = parseOptional(deriver); err != nil {
		return fail("deriver", err)
	}
	if info.CA, err = storepath.ParseContentAddress(ca); err != nil {
		return fail("content address", err)
	}
	if info.References, err = parsePaths(refs); err != nil {
		return fail("references", err)
	}
	info.Signatures = splitSignatures(signatures)
	info.RegistrationTime = time.Unix(registered, 0)
	return &info, nil
}

// parsePaths reads base names with spaces between them, and sorts them.
func parsePaths(s string) ([]storepath.Path, error) {
	if s == "" {
		return nil, nil
	}
	paths := make([]storepath.Path, 0, strings.Count(s, " ")+1)
	for base := range strings.SplitSeq(s, " ") {
		p, err := storepath.ParseBase(base)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	storepath.Sort(paths)
	return paths, nil
}

func parseOptional(base string) (storepath.Path, error) {
	if base == "" {
		return storepath.Path{}, nil
	}
	return storepath.ParseBase(base)
}

// optional is the column of a path or text that may be missing.
func optional(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func splitSignatures(column string) []string {
	if column == "" {
		return nil
	}
	return strings.Split(column, "\n")
}

func joinSignatures(signatures []string) any {
	return optional(strings.Join(signatures, "\n"))
}

// jsonPaths is a JSON array of base names, none of whose characters needs to
// be escaped.
func jsonPaths(paths []storepath.Path) string {
	n := 2
	for _, p := range paths {
		n += len(p.Base()) + 3
	}
	b := make([]byte, 0, n)
	b = append(b, '[')
	for i, p := range paths {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, p.Base()...)
		b = append(b, '"')
	}
	return string(append(b, ']'))
}

// jsonIDs is a JSON array of numbers.
func jsonIDs(ids []int64) string {
	b := make([]byte, 0, 2+8*len(ids))
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, id, 10)
	}
	return string(append(b, ']'))
}

// scanPaths reads a query of one column of paths, and sorts them unless the
// query does.
func scanPaths(rows *sqldb.Rows, sorted bool) ([]storepath.Path, error) {
	defer rows.Close()
	var paths []storepath.Path
	for rows.Next() {
		var base string
		if err := rows.Scan(&base); err != nil {
			return nil, err
		}
		p, err := storepath.ParseBase(base)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	if !sorted {
		slices.SortFunc(paths, storepath.Path.Compare)
	}
	return paths, rows.Err()
}
