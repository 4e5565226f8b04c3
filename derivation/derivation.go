// Package derivation has Nix's build recipes: their text form, the hashes that
// name their outputs, and the checks that Nix makes of them.
//
// A derivation is one term of text ("ATerm"), on one line, without spaces:
//
//	Derive(
//	  [("out","/nix/store/…-hello","","")],         outputs: name, path, method and algorithm, hash
//	  [("/nix/store/…-bash.drv",["out"])],          derivations and which of their outputs
//	  ["/nix/store/…-builder.sh"],                  other inputs
//	  "x86_64-linux","/nix/store/…/bin/bash",       system, builder
//	  ["-e","/nix/store/…-builder.sh"],             arguments
//	  [("name","hello"),("out","/nix/store/…")])    environment
//
// What an output's three strings say:
//
//	path  method+algorithm  hash     kind
//	/…    -                 -        InputAddressed: named by the hash of the derivation
//	/…    r:sha256          <hex>    Fixed: contents are known before the build
//	-     r:sha256          -        Floating: named by what the build yields
//	-     r:sha256          impure   Impure: the same, and never the same twice
//	-     -                 -        Deferred: input-addressed, once the inputs are known
//
// When an input is an output of a derivation that is itself made by a build
// ("dynamic"), the term begins with DrvWithVersion("xp-dyn-drv", and the
// outputs' list becomes a pair of that list and a map of deeper ones.
//
// Error texts about a derivation's contents are Nix's.
package derivation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// ErrInvalid is what an error is, in the sense of errors.Is, when the
// derivation itself is at fault: its text, its outputs or its environment.
var ErrInvalid = errors.New("invalid derivation")

type invalidError string

func (e invalidError) Error() string        { return string(e) }
func (e invalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error {
	return invalidError(fmt.Sprintf(format, args...))
}

// StructuredAttrsKey is the variable that holds the structured attributes.
const StructuredAttrsKey = "__json"

// Derivation is a build recipe. The maps and slices may be shared; whoever
// changes a derivation works on a Clone.
type Derivation struct {
	// Name is that of the store path, without ".drv".
	Name    string
	Outputs map[string]Output
	// InputDrvs are the derivations whose outputs the build needs.
	InputDrvs map[storepath.Path]InputOutputs
	// InputSrcs are the other inputs, sorted and unique after Parse.
	InputSrcs []storepath.Path
	System    string
	Builder   string
	Args      []string
	// Env includes StructuredAttrsKey, byte for byte as it was written.
	Env map[string]string
}

// InputOutputs selects outputs of a derivation.
type InputOutputs struct {
	// Outputs are the names, sorted and unique after Parse.
	Outputs []string
	// Dynamic selects outputs of the derivations that the named outputs are.
	Dynamic map[string]InputOutputs
}

// NameFromPath is the name of the derivation with the given path.
func NameFromPath(drvPath storepath.Path) (string, error) {
	name, ok := strings.CutSuffix(drvPath.Name(), storepath.DrvExtension)
	if !ok {
		return "", invalid("store path '%s' is not a valid derivation path", drvPath)
	}
	return name, nil
}

// Clone is a deep copy.
func (d *Derivation) Clone() *Derivation {
	c := *d
	c.Outputs = maps.Clone(d.Outputs)
	c.InputDrvs = make(map[storepath.Path]InputOutputs, len(d.InputDrvs))
	for p, in := range d.InputDrvs {
		c.InputDrvs[p] = in.clone()
	}
	c.InputSrcs = slices.Clone(d.InputSrcs)
	c.Args = slices.Clone(d.Args)
	c.Env = maps.Clone(d.Env)
	return &c
}

func (in InputOutputs) clone() InputOutputs {
	c := InputOutputs{Outputs: slices.Clone(in.Outputs)}
	if in.Dynamic != nil {
		c.Dynamic = make(map[string]InputOutputs, len(in.Dynamic))
		for name, deeper := range in.Dynamic {
			c.Dynamic[name] = deeper.clone()
		}
	}
	return c
}

// OutputNames are the outputs' names, sorted.
func (d *Derivation) OutputNames() []string { return slices.Sorted(maps.Keys(d.Outputs)) }

// References are the paths that the derivation's own store object refers to,
// sorted: its sources and its input derivations.
func (d *Derivation) References() []storepath.Path {
	refs := make([]storepath.Path, 0, len(d.InputSrcs)+len(d.InputDrvs))
	refs = append(refs, d.InputSrcs...)
	for p := range d.InputDrvs {
		refs = append(refs, p)
	}
	return storepath.SortUnique(refs)
}

// Path computes where the derivation itself lies in the store.
func (d *Derivation) Path(dir storepath.Dir) (storepath.Path, error) {
	contents := nixhash.Sum(nixhash.SHA256, d.Format(dir))
	return dir.Text(d.Name+storepath.DrvExtension, contents, d.References())
}

// Type is the kind that all outputs have. Mixtures are an error, and so are
// no outputs at all, several fixed ones, a fixed one that is not "out", and
// floating ones with different hash algorithms.
func (d *Derivation) Type() (Kind, error) {
	var kind Kind
	var algo nixhash.Algo
	for _, name := range d.OutputNames() {
		o := d.Outputs[name]
		switch {
		case kind == 0:
			kind, algo = o.Kind, o.Algo
		case kind != o.Kind:
			return 0, invalid("can't mix derivation output types")
		case kind == Fixed:
			return 0, invalid("only one fixed output is allowed for now")
		}
		if kind == Fixed && name != "out" {
			return 0, invalid("single fixed output must be named \"out\"")
		}
		if kind == Floating && algo != o.Algo {
			return 0, invalid("all floating outputs must use the same hash algorithm")
		}
	}
	if kind == 0 {
		return 0, invalid("must have at least one output")
	}
	return kind, nil
}

// IsFixed reports whether the derivation has a fixed output, that is, known contents.
func (d *Derivation) IsFixed() bool {
	kind, err := d.Type()
	return err == nil && kind == Fixed
}

// IsBuiltin reports whether the builder is part of the daemon.
func (d *Derivation) IsBuiltin() bool { return strings.HasPrefix(d.Builder, "builtin:") }

// HasDynamicInputs reports whether an input is an output of a dynamic derivation.
func (d *Derivation) HasDynamicInputs() bool {
	for _, in := range d.InputDrvs {
		if len(in.Dynamic) > 0 {
			return true
		}
	}
	return false
}

// StructuredAttrs are the structured attributes, if the derivation has any.
// They are not checked to be JSON.
func (d *Derivation) StructuredAttrs() (json.RawMessage, bool) {
	s, ok := d.Env[StructuredAttrsKey]
	return json.RawMessage(s), ok
}
