package build

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// outputChecks are what a derivation demands of an output.
type outputChecks struct {
	ignoreSelf              bool // in requisites
	maxSize, maxClosureSize *uint64
	allowedReferences       referenceList
	allowedRequisites       referenceList
	disallowedReferences    referenceList
	disallowedRequisites    referenceList
}

// referenceList is store paths and names of outputs. An empty one is not the
// same as none.
type referenceList struct {
	paths []string
	given bool
}

// checkOutputs applies the demands of a derivation to its new outputs.
func (a *attempt) checkOutputs(infos map[string]*pathinfo.PathInfo) error {
	for _, name := range a.drv.OutputNames() {
		info := infos[name]
		if info == nil {
			continue
		}
		checks, err := a.attrs.outputChecks(name)
		if err != nil {
			return err
		}
		if err := a.applyChecks(checks, info, infos); err != nil {
			return err
		}
	}
	return nil
}

// outputChecks reads the demands on an output.
func (a *attributes) outputChecks(output string) (c outputChecks, err error) {
	if a.structured == nil {
		c.ignoreSelf = true
		return c, c.readLists(func(name string) ([]string, bool, error) {
			v, ok := a.drv.Env[name]
			return tokens(v), ok, nil
		})
	}
	all, _ := a.structured["outputChecks"].(map[string]any)
	checks, ok := all[output].(map[string]any)
	if !ok {
		return c, nil
	}
	for name, into := range map[string]**uint64{"maxSize": &c.maxSize, "maxClosureSize": &c.maxClosureSize} {
		v, ok := checks[name]
		if !ok {
			continue
		}
		n, good := toSize(v)
		if !good {
			return c, a.wrongType(name, "a number of bytes")
		}
		*into = &n
	}
	return c, c.readLists(func(name string) ([]string, bool, error) {
		v, ok := checks[name]
		if !ok {
			return nil, false, nil
		}
		list, good := toStrings(v)
		if !good {
			return nil, false, a.wrongType(name, "a list of strings")
		}
		return list, true, nil
	})
}

// readLists reads the demands on references.
func (c *outputChecks) readLists(read func(name string) ([]string, bool, error)) (err error) {
	for name, into := range map[string]*referenceList{
		"allowedReferences": &c.allowedReferences, "allowedRequisites": &c.allowedRequisites,
		"disallowedReferences": &c.disallowedReferences, "disallowedRequisites": &c.disallowedRequisites,
	} {
		if into.paths, into.given, err = read(name); err != nil {
			return err
		}
	}
	return nil
}

func toSize(v any) (uint64, bool) {
	n, ok := v.(json.Number)
	if !ok || !isInteger(n) || strings.HasPrefix(string(n), "-") {
		return 0, false
	}
	var size uint64
	err := json.Unmarshal([]byte(n), &size)
	return size, err == nil
}

func (a *attempt) applyChecks(c outputChecks, info *pathinfo.PathInfo, infos map[string]*pathinfo.PathInfo) error {
	full := a.b.dir.Join(info.Path)
	if c.maxSize != nil && info.NarSize > *c.maxSize {
		return rejected("path '%s' is too large at %v bytes; limit is %v bytes", full, info.NarSize, *c.maxSize)
	}
	var closure []storepath.Path
	if c.maxClosureSize != nil || c.allowedRequisites.given || c.disallowedRequisites.given {
		var size uint64
		var err error
		if closure, size, err = a.outputClosure(info.Path, infos); err != nil {
			return err
		}
		if c.maxClosureSize != nil && size > *c.maxClosureSize {
			return rejected("closure of path '%s' is too large at %v bytes; limit is %v bytes", full, size, *c.maxClosureSize)
		}
	}
	if c.ignoreSelf {
		closure = slices.DeleteFunc(closure, func(p storepath.Path) bool { return p == info.Path })
	}
	for _, r := range []struct {
		list    referenceList
		allowed bool
		used    []storepath.Path
	}{
		{c.allowedReferences, true, info.References},
		{c.allowedRequisites, true, closure},
		{c.disallowedReferences, false, info.References},
		{c.disallowedRequisites, false, closure},
	} {
		if !r.list.given {
			continue
		}
		if err := a.checkReferences(r.list.paths, r.allowed, r.used, full, infos); err != nil {
			return err
		}
	}
	return nil
}

// checkReferences compares used paths with a list of store paths and names of
// outputs.
func (a *attempt) checkReferences(
	spec []string, allowed bool, used []storepath.Path, full string, infos map[string]*pathinfo.PathInfo,
) error {
	dir := a.b.dir
	listed := make(map[storepath.Path]bool, len(spec))
	for _, s := range spec {
		if p, err := dir.Parse(s); err == nil {
			listed[p] = true
		} else if info := infos[s]; info != nil {
			listed[info.Path] = true
		} else if out, ok := a.drv.Outputs[s]; ok {
			listed[out.Path] = true // it was valid before
		} else {
			return rejected("derivation contains an illegal reference specifier '%s'", s)
		}
	}
	var bad strings.Builder
	for _, p := range storepath.SortUnique(append([]storepath.Path(nil), used...)) {
		if listed[p] != allowed {
			bad.WriteString("\n  " + dir.Join(p))
		}
	}
	if bad.Len() == 0 {
		return nil
	}
	return &Error{Status: OutputRejected, Msg: "output '" + ansiMagenta + full + ansiNormal +
		"' is not allowed to refer to the following paths:" + bad.String()}
}

// outputClosure is the closure of an output and the size of its NARs. Outputs
// of this build are not valid yet.
func (a *attempt) outputClosure(
	p storepath.Path, infos map[string]*pathinfo.PathInfo,
) (closure []storepath.Path, size uint64, err error) {
	ours := make(map[storepath.Path]*pathinfo.PathInfo, len(infos))
	for _, info := range infos {
		ours[info.Path] = info
	}
	var valid []storepath.Path
	seen := map[storepath.Path]bool{p: true}
	for todo := []storepath.Path{p}; len(todo) > 0; {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		info := ours[next]
		if info == nil {
			valid = append(valid, next)
			continue
		}
		closure = append(closure, next)
		size += info.NarSize
		for _, ref := range info.References {
			if !seen[ref] {
				seen[ref] = true
				todo = append(todo, ref)
			}
		}
	}
	if len(valid) == 0 {
		return closure, size, nil
	}
	rest, err := a.job.closure(valid)
	if err != nil {
		return nil, 0, err
	}
	known, err := a.b.store.PathInfo().GetMany(a.ctx, rest)
	if err != nil {
		return nil, 0, err
	}
	for i, info := range known {
		if info == nil || ours[rest[i]] != nil {
			continue
		}
		closure = append(closure, rest[i])
		size += info.NarSize
	}
	return closure, size, nil
}
