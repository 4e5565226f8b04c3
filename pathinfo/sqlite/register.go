package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Register implements pathinfo.Registry.
func (s *Service) Register(ctx context.Context, infos []pathinfo.PathInfo) error {
	return s.register(ctx, infos, false)
}

// Replace implements pathinfo.Registry.
func (s *Service) Replace(ctx context.Context, infos []pathinfo.PathInfo) error {
	return s.register(ctx, infos, true)
}

func (s *Service) register(ctx context.Context, infos []pathinfo.PathInfo, replace bool) error {
	if len(infos) == 0 {
		return ctx.Err()
	}
	infos = slices.Clone(infos)
	for i := range infos {
		if err := infos[i].Validate(); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		infos[i].Normalise()
	}
	if _, err := pathinfo.Order(infos); err != nil {
		return err
	}
	r := &registration{infos: infos, replace: replace, now: s.now().Unix()}
	err := s.db.Write(ctx, r.run)
	var (
		invalid *pathinfo.InvalidReferenceError
		cycle   *pathinfo.CycleError
	)
	if err != nil && !errors.As(err, &invalid) && !errors.As(err, &cycle) {
		return fmt.Errorf("register %d paths: %w", len(infos), err)
	}
	if err == nil {
		s.logger.Debug("registered paths", "paths", len(infos), "replace", replace)
	}
	return err
}

// registration is one call of register while its transaction runs.
type registration struct {
	infos   []pathinfo.PathInfo
	replace bool
	now     int64
	rows    map[storepath.Path]*row // of all paths in infos and their references
}

// row is what a registration must know of a path that is valid already.
type row struct {
	id         int64
	fresh      bool // inserted by this registration
	deriver    string
	ca         string
	signatures []string
	ultimate   bool
}

func (r *registration) run(tx *sqldb.Tx) error {
	if err := r.load(tx); err != nil {
		return err
	}
	if err := r.checkReferences(); err != nil {
		return err
	}
	var replaced []int
	for i := range r.infos {
		info := &r.infos[i]
		old, ok := r.rows[info.Path]
		var err error
		switch {
		case !ok:
			err = r.insert(tx, info)
		case r.replace:
			if !old.fresh {
				replaced = append(replaced, i)
			}
			err = r.update(tx, old, info)
		default:
			err = r.merge(tx, old, info)
		}
		if err != nil {
			return err
		}
	}
	if err := r.insertReferences(tx); err != nil {
		return err
	}
	for _, i := range replaced {
		if err := r.checkCycle(tx, &r.infos[i]); err != nil {
			return err
		}
	}
	return nil
}

// load reads the rows of those paths that are valid already.
func (r *registration) load(tx *sqldb.Tx) error {
	seen := make(map[storepath.Path]struct{}, 2*len(r.infos))
	var paths []storepath.Path
	add := func(p storepath.Path) {
		if _, ok := seen[p]; !ok {
			seen[p] = struct{}{}
			paths = append(paths, p)
		}
	}
	for i := range r.infos {
		add(r.infos[i].Path)
		for _, ref := range r.infos[i].References {
			add(ref)
		}
	}
	r.rows = make(map[storepath.Path]*row, len(paths))
	return parts(tx, paths, func(tx *sqldb.Tx, _ int, part string) error {
		rows := tx.Query(queryExisting, part)
		defer rows.Close()
		for rows.Next() {
			var base, signatures string
			var old row
			if err := rows.Scan(&base, &old.id, &old.deriver, &old.ca, &signatures, &old.ultimate); err != nil {
				return err
			}
			p, err := storepath.ParseBase(base)
			if err != nil {
				return err
			}
			old.signatures = splitSignatures(signatures)
			r.rows[p] = &old
		}
		return rows.Err()
	})
}

func (r *registration) checkReferences() error {
	batch := make(map[storepath.Path]struct{}, len(r.infos))
	for i := range r.infos {
		batch[r.infos[i].Path] = struct{}{}
	}
	for i := range r.infos {
		for _, ref := range r.infos[i].References {
			if _, ok := r.rows[ref]; ok {
				continue
			}
			if _, ok := batch[ref]; !ok {
				return &pathinfo.InvalidReferenceError{Path: r.infos[i].Path, Reference: ref}
			}
		}
	}
	return nil
}

func (r *registration) insert(tx *sqldb.Tx, info *pathinfo.PathInfo) error {
	registered := r.now
	if !info.RegistrationTime.IsZero() {
		registered = info.RegistrationTime.Unix()
	}
	fresh := &row{
		fresh:      true,
		deriver:    info.Deriver.Base(),
		ca:         info.CA.String(),
		signatures: info.Signatures,
		ultimate:   info.Ultimate,
	}
	res, err := tx.Exec(insertPath, info.Path.Base(), castore.MarshalNode(info.Root), info.NarHash.Bytes(),
		info.NarSize, optional(fresh.deriver), optional(fresh.ca), joinSignatures(fresh.signatures),
		fresh.ultimate, registered)
	if err != nil {
		return err
	}
	fresh.id = res.LastInsertID
	r.rows[info.Path] = fresh
	return insertOutputs(tx, fresh.id, info.Outputs)
}

// merge adds to a valid path what it lacks.
func (r *registration) merge(tx *sqldb.Tx, old *row, info *pathinfo.PathInfo) error {
	next := *old
	if next.deriver == "" {
		next.deriver = info.Deriver.Base()
	}
	if next.ca == "" {
		next.ca = info.CA.String()
	}
	next.ultimate = old.ultimate || info.Ultimate
	next.signatures = pathinfo.MergeSignatures(old.signatures, info.Signatures)
	if next.deriver != old.deriver || next.ca != old.ca || next.ultimate != old.ultimate ||
		len(next.signatures) != len(old.signatures) {
		_, err := tx.Exec(updateMerged, optional(next.deriver), optional(next.ca),
			joinSignatures(next.signatures), next.ultimate, next.id)
		if err != nil {
			return err
		}
		*old = next
	}
	return r.replaceOutputs(tx, old, info)
}

// update gives a valid path new metadata.
func (r *registration) update(tx *sqldb.Tx, old *row, info *pathinfo.PathInfo) error {
	old.signatures = pathinfo.MergeSignatures(old.signatures, info.Signatures)
	old.deriver, old.ca, old.ultimate = info.Deriver.Base(), info.CA.String(), info.Ultimate
	_, err := tx.Exec(updateReplaced, castore.MarshalNode(info.Root), info.NarHash.Bytes(), info.NarSize,
		optional(old.deriver), optional(old.ca), joinSignatures(old.signatures), old.ultimate, old.id)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(deleteRefsOf, old.id); err != nil {
		return err
	}
	return r.replaceOutputs(tx, old, info)
}

func (r *registration) replaceOutputs(tx *sqldb.Tx, old *row, info *pathinfo.PathInfo) error {
	if info.Outputs == nil {
		return nil
	}
	if _, err := tx.Exec(deleteDrvOutputs, old.id); err != nil {
		return err
	}
	return insertOutputs(tx, old.id, info.Outputs)
}

// insertReferences stores the references of the paths that are new or replaced,
// now that all have ids.
func (r *registration) insertReferences(tx *sqldb.Tx) error {
	// Of several infos of one path the first counts for a new path, the last
	// for a replaced one.
	use := make(map[storepath.Path]int, len(r.infos))
	for i := range r.infos {
		if _, ok := use[r.infos[i].Path]; !ok || r.replace {
			use[r.infos[i].Path] = i
		}
	}
	var ids []int64
	for i := range r.infos {
		info := &r.infos[i]
		own := r.rows[info.Path]
		if use[info.Path] != i || len(info.References) == 0 || !own.fresh && !r.replace {
			continue
		}
		ids = ids[:0]
		for _, ref := range info.References {
			ids = append(ids, r.rows[ref].id)
		}
		slices.Sort(ids) // in the order of the table
		if _, err := tx.Exec(insertRefs, own.id, jsonIDs(ids)); err != nil {
			return err
		}
	}
	return nil
}

func (r *registration) checkCycle(tx *sqldb.Tx, info *pathinfo.PathInfo) error {
	var base string
	err := tx.QueryRow(queryCycle, r.rows[info.Path].id).Scan(&base)
	if errors.Is(err, sqldb.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	parent, err := storepath.ParseBase(base)
	if err != nil {
		return err
	}
	return &pathinfo.CycleError{Path: info.Path, Parent: parent}
}
