package build

import (
	"encoding/json"
	"strings"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// outputChecks are what a derivation demands of an output.
type outputChecks struct {
	ignoreSelf              bool // in requisites
	maxSize, maxClosureSize *uint64
	allowedReferences       []string
	allowedRequisites       []string
	disallowedReferences    []string
	disallowedRequisites    []string
	hasAllowedReferences    bool
	hasAllowedRequisites    bool
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
	list := func(name string) []string { return nil }
	has := func(string) bool { return false }
	if a.structured == nil {
		c.ignoreSelf = true
		list = func(name string) []string { return tokens(a.drv.Env[name]) }
		has = func(name string) bool { _, ok := a.drv.Env[name]; return ok }
	} else {
		all, _ := a.structured["outputChecks"].(map[string]any)
		checks, ok := all[output].(map[string]any)
		if !ok {
			return c, nil
		}
		has = func(name string) bool { _, ok := checks[name]; return ok }
		list = func(name string) []string {
			v, ok := checks[name]
			if !ok {
				return nil
			}
			l, good := toStrings(v)
			if !good {
				err = a.wrongType(name, "a list of strings")
			}
			return l
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
	}
	c.allowedReferences, c.hasAllowedReferences = list("allowedReferences"), has("allowedReferences")
	c.allowedRequisites, c.hasAllowedRequisites = list("allowedRequisites"), has("allowedRequisites")
	c.disallowedReferences = list("disallowedReferences")
	c.disallowedRequisites = list("disallowedRequisites")
	return c, err
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
	needClosure := c.maxClosureSize != nil || c.hasAllowedRequisites || len(c.disallowedRequisites) > 0
	var closure []storepath.Path
	if needClosure {
		var size uint64
		var err error
		if closure, size, err = a.outputClosure(info.Path, infos); err != nil {
			return err
		}
		if c.maxClosureSize != nil && size > *c.maxClosureSize {
			return rejected("closure of path '%s' is too large at %v bytes; limit is %v bytes", full, size, *c.maxClosureSize)
		}
	}
	requisites := closure
	if c.ignoreSelf {
		requisites = nil
		for _, p := range closure {
			if p != info.Path {
				requisites = append(requisites, p)
			}
		}
	}
	for _, r := range []struct {
		applies, allowed bool
		spec             []string
		used             []storepath.Path
	}{
		{c.hasAllowedReferences, true, c.allowedReferences, info.References},
		{c.hasAllowedRequisites, true, c.allowedRequisites, requisites},
		{len(c.disallowedReferences) > 0, false, c.disallowedReferences, info.References},
		{len(c.disallowedRequisites) > 0, false, c.disallowedRequisites, requisites},
	} {
		if !r.applies {
			continue
		}
		if err := a.checkReferences(r.spec, r.allowed, r.used, full, infos); err != nil {
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
