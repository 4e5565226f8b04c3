package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/storepath"
)

// attributes are what a derivation says about its own build, in its
// environment or in its structured attributes.
type attributes struct {
	drvPath    storepath.Path
	drv        *derivation.Derivation
	structured map[string]any // nil when there are none; numbers are json.Number
}

func parseAttributes(drvPath storepath.Path, drv *derivation.Derivation) (*attributes, error) {
	a := &attributes{drvPath: drvPath, drv: drv}
	text, ok := drv.StructuredAttrs()
	if !ok {
		return a, nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&a.structured); err != nil {
		return nil, failf(MiscFailure, "cannot process __json attribute of '%s': %s", drvPath, err)
	}
	if dec.More() || a.structured == nil {
		return nil, failf(MiscFailure, "cannot process __json attribute of '%s': %s", drvPath, "it is not an object")
	}
	return a, nil
}

func (a *attributes) wrongType(name, want string) error {
	return failf(MiscFailure, "attribute '%s' of derivation '%s' must be "+want, name, a.drvPath)
}

func (a *attributes) boolean(name string, def bool) (bool, error) {
	if a.structured == nil {
		v, ok := a.drv.Env[name]
		if !ok {
			return def, nil
		}
		return v == "1", nil
	}
	v, ok := a.structured[name]
	if !ok {
		return def, nil
	}
	b, ok := v.(bool)
	if !ok {
		return false, a.wrongType(name, "a Boolean")
	}
	return b, nil
}

// stringList is a list attribute; ok is false when there is none.
func (a *attributes) stringList(name string) (list []string, ok bool, err error) {
	if a.structured == nil {
		v, ok := a.drv.Env[name]
		return tokens(v), ok, nil
	}
	v, ok := a.structured[name]
	if !ok {
		return nil, false, nil
	}
	list, good := toStrings(v)
	if !good {
		return nil, false, a.wrongType(name, "a list of strings")
	}
	return list, true, nil
}

func toStrings(v any) ([]string, bool) {
	elems, ok := v.([]any)
	if !ok {
		return nil, false
	}
	list := make([]string, len(elems))
	for i, e := range elems {
		if list[i], ok = e.(string); !ok {
			return nil, false
		}
	}
	return list, true
}

// tokens splits at white space as Nix does it.
func tokens(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" \t\n\r", r) })
}

// requiredFeatures are the system features that a machine must have.
func (a *attributes) requiredFeatures() ([]string, error) {
	list, _, err := a.stringList("requiredSystemFeatures")
	if err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list), nil
}

// checkPlatform fails unless this machine may build the derivation.
func (a *attributes) checkPlatform(dir storepath.Dir, s *Settings) error {
	required, err := a.requiredFeatures()
	if err != nil {
		return err
	}
	available := slices.Clone(s.SystemFeatures)
	slices.Sort(available)
	available = slices.Compact(available)

	missing := slices.ContainsFunc(required, func(f string) bool { return !slices.Contains(available, f) })
	wrong := a.drv.System != s.System && !slices.Contains(s.ExtraPlatforms, a.drv.System) && !a.drv.IsBuiltin()
	if !missing && !wrong {
		return nil
	}
	return failf(InputRejected, "a '%s' with features {%s} is required to build '%s', but I am a '%s' with features {%s}",
		a.drv.System, strings.Join(required, ", "), dir.Join(a.drvPath), s.System, strings.Join(available, ", "))
}

// isolated decides whether the builder gets a sandbox.
func (a *attributes) isolated(dir storepath.Dir, s *Settings) (bool, error) {
	noChroot, err := a.boolean("__noChroot", false)
	if err != nil {
		return false, err
	}
	switch s.Sandbox {
	case SandboxOff:
		return false, nil
	case SandboxRelaxed:
		return !a.drv.IsFixed() && !noChroot, nil
	}
	if noChroot {
		return false, failf(InputRejected, "derivation '%s' has '__noChroot' set, "+
			"but that's not allowed when 'sandbox' is 'true'", dir.Join(a.drvPath))
	}
	return true, nil
}

// checkKind refuses what this version does not build.
func checkKind(drv *derivation.Derivation) error {
	kind, err := drv.Type()
	if err != nil {
		return &Error{Status: MiscFailure, Msg: err.Error()}
	}
	const unsupported = "tvixd does not build %s derivations (%s) yet"
	switch {
	case kind == derivation.Floating || kind == derivation.Deferred:
		return failf(MiscFailure, unsupported, "content-addressed", "ca-derivations")
	case kind == derivation.Impure:
		return failf(MiscFailure, unsupported, "impure", "impure-derivations")
	case drv.HasDynamicInputs():
		return failf(MiscFailure, unsupported, "dynamic", "dynamic-derivations")
	}
	return nil
}

// wantedNames are the outputs that a goal wants, all when none are named.
func wantedNames(drv *derivation.Derivation, wanted map[string]bool) []string {
	if len(wanted) == 0 {
		return drv.OutputNames()
	}
	return slices.Sorted(maps.Keys(wanted))
}

// checkWanted fails when an output is wanted that does not exist.
func checkWanted(dir storepath.Dir, drvPath storepath.Path, drv *derivation.Derivation, wanted map[string]bool) error {
	var bad []string
	for name := range wanted {
		if _, ok := drv.Outputs[name]; !ok {
			bad = append(bad, fmt.Sprintf("'%s'", name))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	return failf(MiscFailure, "derivation '%s' does not have wanted outputs %s", dir.Join(drvPath), strings.Join(bad, ", "))
}
