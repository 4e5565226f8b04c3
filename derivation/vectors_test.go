package derivation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

const dir = storepath.DefaultDir

// vector reads a file of Nix's own test data.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../shared/vectors/derivation", name))
	if os.IsNotExist(err) {
		t.Skipf("the vectors are not here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The JSON form of derivations in the vectors, version 4.
type jsonDerivation struct {
	Name            string
	System, Builder string
	Args            []string
	Env             map[string]string
	StructuredAttrs json.RawMessage
	Inputs          json.RawMessage
	Outputs         map[string]jsonOutput
}

type jsonOutput struct {
	Path, Hash, Method, HashAlgo string
	Impure                       bool
}

type jsonInputs struct {
	Srcs []string
	Drvs map[string]jsonInput
}

type jsonInput struct {
	Outputs        []string
	DynamicOutputs map[string]jsonInput
}

func vectorJSON(t testing.TB, name string) *Derivation {
	t.Helper()
	var j jsonDerivation
	if err := json.Unmarshal(vector(t, name), &j); err != nil {
		t.Fatal(err)
	}
	d := &Derivation{Name: j.Name, System: j.System, Builder: j.Builder, Args: j.Args, Env: j.Env}
	if len(d.Args) == 0 {
		d.Args = nil
	}
	if j.StructuredAttrs != nil {
		// Nix writes the attributes without spaces, sorted; so does encoding/json.
		var v any
		if err := json.Unmarshal(j.StructuredAttrs, &v); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		d.Env[StructuredAttrsKey] = string(b)
	}
	d.Outputs = make(map[string]Output)
	for output, o := range j.Outputs {
		d.Outputs[output] = o.output(t, j.Name, output)
	}
	var in jsonInputs
	if json.Unmarshal(j.Inputs, &in) != nil {
		// A resolved derivation has a list of paths only.
		if err := json.Unmarshal(j.Inputs, &in.Srcs); err != nil {
			t.Fatal(err)
		}
	}
	d.InputDrvs = make(map[storepath.Path]InputOutputs)
	for p, i := range in.Drvs {
		d.InputDrvs[base(t, p)] = i.inputOutputs()
	}
	for _, p := range in.Srcs {
		d.InputSrcs = append(d.InputSrcs, base(t, p))
	}
	return d
}

func base(t testing.TB, s string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (i jsonInput) inputOutputs() InputOutputs {
	in := InputOutputs{Outputs: i.Outputs}
	for name, deeper := range i.DynamicOutputs {
		if in.Dynamic == nil {
			in.Dynamic = make(map[string]InputOutputs)
		}
		in.Dynamic[name] = deeper.inputOutputs()
	}
	return in
}

func (o jsonOutput) output(t testing.TB, drvName, name string) Output {
	t.Helper()
	methods := map[string]storepath.Method{"nar": storepath.NAR, "flat": storepath.Flat, "text": storepath.Text, "git": storepath.Git}
	switch {
	case o.Path != "":
		return Output{Kind: InputAddressed, Path: base(t, o.Path)}
	case o.Hash != "":
		h, err := nixhash.Parse(o.Hash, 0)
		if err != nil {
			t.Fatal(err)
		}
		out, err := NewFixed(dir, drvName, name, storepath.ContentAddress{Method: methods[o.Method], Hash: h})
		if err != nil {
			t.Fatal(err)
		}
		return out
	case o.Method != "":
		algo, err := nixhash.ParseAlgo(o.HashAlgo)
		if err != nil {
			t.Fatal(err)
		}
		kind := Floating
		if o.Impure {
			kind = Impure
		}
		return Output{Kind: kind, Method: methods[o.Method], Algo: algo}
	}
	return Output{Kind: Deferred}
}

// drvVectors are the valid .drv files that have the same derivation as JSON beside them.
var drvVectors = []string{
	"simple-derivation", "dyn-dep-derivation",
	"hash-modulo/source-first", "hash-modulo/source-second", "hash-modulo/intermediate-first",
	"hash-modulo/intermediate-second", "hash-modulo/parent-split", "hash-modulo/parent-joined",
	"ia/advanced-attributes", "ia/advanced-attributes-defaults",
	"ia/advanced-attributes-structured-attrs", "ia/advanced-attributes-structured-attrs-defaults",
	"ca/advanced-attributes", "ca/advanced-attributes-defaults",
	"ca/advanced-attributes-structured-attrs", "ca/advanced-attributes-structured-attrs-defaults",
}

// drvVector reads a .drv file. Those in ia and ca are links into Nix's source
// tree, given here by their target's path; there the JSON has to do.
func drvVector(t testing.TB, name string) []byte {
	t.Helper()
	data := vector(t, name+".drv")
	if strings.HasPrefix(string(data), "../") {
		return vectorJSON(t, name+".json").Format(dir)
	}
	return data
}
