package build

import (
	"context"
	"errors"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Missing is what a request would do.
type Missing struct {
	WillBuild      []storepath.Path // derivations
	WillSubstitute []storepath.Path
	Unknown        []storepath.Path // not valid, and nobody has them
	DownloadSize   uint64           // bytes to fetch
	NarSize        uint64           // bytes of NARs that come of it
}

// Missing finds out what Build would do, and does nothing. The lists are sorted.
func (b *Builder) Missing(ctx context.Context, targets []Target, s Settings) (Missing, error) {
	q := &missingQuery{b: b, ctx: ctx, settings: &s, seen: make(map[string]bool)}
	q.todo = append(q.todo, targets...)
	for len(q.todo) > 0 {
		t := q.todo[0]
		q.todo = q.todo[1:]
		if q.repeated(t) {
			continue
		}
		var err error
		if t.Drv.IsZero() {
			err = q.path(t.Path)
		} else {
			err = q.derivation(t)
		}
		if err != nil {
			return Missing{}, err
		}
	}
	m := &q.result
	m.WillBuild = storepath.SortUnique(m.WillBuild)
	m.WillSubstitute = storepath.SortUnique(m.WillSubstitute)
	m.Unknown = storepath.SortUnique(m.Unknown)
	return *m, nil
}

type missingQuery struct {
	b        *Builder
	ctx      context.Context
	settings *Settings
	seen     map[string]bool
	todo     []Target
	result   Missing
}

func (q *missingQuery) repeated(t Target) bool {
	key := t.Path.Base()
	if !t.Drv.IsZero() {
		key = t.Drv.Base() + "!"
		for _, o := range t.Outputs {
			key += o + ","
		}
	}
	if q.seen[key] {
		return true
	}
	q.seen[key] = true
	return false
}

func (q *missingQuery) valid(paths []storepath.Path) (map[storepath.Path]bool, error) {
	valid, err := q.b.store.PathInfo().Valid(q.ctx, paths)
	if err != nil {
		return nil, err
	}
	set := make(map[storepath.Path]bool, len(valid))
	for _, p := range valid {
		set[p] = true
	}
	return set, nil
}

// substitutes asks where paths would come from.
func (q *missingQuery) substitutes(paths []storepath.Path) (map[storepath.Path]Substitute, error) {
	if q.b.subst == nil || !q.settings.UseSubstitute {
		return nil, nil
	}
	return q.b.subst.Query(q.ctx, paths)
}

func (q *missingQuery) path(p storepath.Path) error {
	valid, err := q.valid([]storepath.Path{p})
	if err != nil || valid[p] {
		return err
	}
	found, err := q.substitutes([]storepath.Path{p})
	if err != nil {
		return err
	}
	sub, ok := found[p]
	if !ok {
		q.result.Unknown = append(q.result.Unknown, p)
		return nil
	}
	q.result.WillSubstitute = append(q.result.WillSubstitute, p)
	q.result.DownloadSize += sub.DownloadSize
	q.result.NarSize += sub.NarSize
	for _, ref := range sub.References {
		q.todo = append(q.todo, Target{Path: ref})
	}
	return nil
}

func (q *missingQuery) derivation(t Target) error {
	drv, err := q.b.store.ReadDerivation(q.ctx, t.Drv)
	if errors.Is(err, pathinfo.ErrNotFound) {
		q.result.Unknown = append(q.result.Unknown, t.Drv)
		return nil
	}
	if err != nil {
		return err
	}
	known := true
	var paths []storepath.Path
	for name, o := range drv.Outputs {
		known = known && o.Kind.KnowsPaths()
		if len(t.Outputs) == 0 || contains(t.Outputs, name) {
			paths = append(paths, o.Path)
		}
	}
	if !known {
		return q.mustBuild(t.Drv, drv)
	}
	valid, err := q.valid(paths)
	if err != nil {
		return err
	}
	var missing []storepath.Path
	for _, p := range paths {
		if !valid[p] {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	attrs, err := parseAttributes(t.Drv, drv)
	if err != nil {
		return err
	}
	allowed, err := attrs.boolean("allowSubstitutes", true)
	if err != nil || !allowed {
		return errors.Join(err, q.mustBuild(t.Drv, drv))
	}
	found, err := q.substitutes(missing)
	if err != nil {
		return err
	}
	if len(found) < len(missing) {
		return q.mustBuild(t.Drv, drv)
	}
	for _, p := range missing {
		q.todo = append(q.todo, Target{Path: p})
	}
	return nil
}

func (q *missingQuery) mustBuild(drvPath storepath.Path, drv *derivation.Derivation) error {
	q.result.WillBuild = append(q.result.WillBuild, drvPath)
	for p, in := range drv.InputDrvs {
		q.todo = append(q.todo, Target{Drv: p, Outputs: in.Outputs})
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}
