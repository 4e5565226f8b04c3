package derivation

import (
	"maps"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// Placeholder stands in a derivation for the path of an output that is not
// known yet. The zero value is none.
type Placeholder struct{ hash nixhash.Hash }

// String is the text of the placeholder: as long as a path can be found by, and nothing else.
func (p Placeholder) String() string { return "/" + p.hash.Nix32() }

// OwnPlaceholder is how a derivation speaks of its own output.
func OwnPlaceholder(output string) Placeholder {
	return Placeholder{nixhash.Sum(nixhash.SHA256, []byte("nix-output:"+output))}
}

// InputPlaceholder is how a derivation speaks of another's output whose
// contents are not known yet.
func InputPlaceholder(drvPath storepath.Path, output string) Placeholder {
	name := storepath.OutputName(strings.TrimSuffix(drvPath.Name(), storepath.DrvExtension), output)
	return Placeholder{nixhash.Sum(nixhash.SHA256, []byte("nix-upstream-output:"+drvPath.HashPart()+":"+name))}
}

// Output is how a derivation speaks of an output of the derivation that p
// stands for.
func (p Placeholder) Output(output string) Placeholder {
	var folded [storepath.DigestSize]byte
	for i, c := range p.hash.Bytes() {
		folded[i%len(folded)] ^= c
	}
	text := "nix-computed-output:" + nixhash.EncodeNix32(folded[:]) + ":" + output
	return Placeholder{nixhash.Sum(nixhash.SHA256, []byte(text))}
}

// Chain names an output of a derivation, or of one that is made by a build.
type Chain struct {
	// Drv is the derivation that lies in the store.
	Drv storepath.Path
	// Outputs are the outputs to follow, at least one; all but the last are derivations.
	Outputs []string
}

// Placeholder is how a derivation speaks of the output.
func (c Chain) Placeholder() Placeholder {
	p := InputPlaceholder(c.Drv, c.Outputs[0])
	for _, output := range c.Outputs[1:] {
		p = p.Output(output)
	}
	return p
}

// NeedsResolving reports whether d must be resolved before it can be built:
// its outputs' paths or its inputs are not known from the text alone.
func (d *Derivation) NeedsResolving() bool {
	if len(d.InputDrvs) == 0 {
		return false
	}
	kind, err := d.Type()
	return err == nil && !kind.KnowsPaths() || d.HasDynamicInputs()
}

// Resolve makes the derivation that has paths instead of derivations as
// inputs: lookup says what each output came to. Placeholders are replaced
// everywhere and deferred outputs filled in. ok is false when lookup knows an
// output not; then there is no error and no result.
func (h *Hasher) Resolve(d *Derivation, lookup func(Chain) (storepath.Path, bool)) (resolved *Derivation, ok bool, err error) {
	r := resolution{dir: h.dir, lookup: lookup, sources: slices.Clone(d.InputSrcs)}
	for _, p := range slices.SortedFunc(maps.Keys(d.InputDrvs), storepath.Path.Compare) {
		if !r.collect(Chain{Drv: p}, d.InputDrvs[p]) {
			return nil, false, nil
		}
	}
	resolved = d.Clone()
	resolved.InputDrvs = map[storepath.Path]InputOutputs{}
	resolved.InputSrcs = storepath.SortUnique(r.sources)
	resolved.rewrite(strings.NewReplacer(r.rewrites...))
	return resolved, true, h.Fill(resolved, nil)
}

type resolution struct {
	dir      storepath.Dir
	lookup   func(Chain) (storepath.Path, bool)
	sources  []storepath.Path
	rewrites []string
}

func (r *resolution) collect(c Chain, in InputOutputs) bool {
	for _, output := range in.Outputs {
		if _, ok := r.output(c, output); !ok {
			return false
		}
	}
	for _, output := range slices.Sorted(maps.Keys(in.Dynamic)) {
		deeper := Chain{c.Drv, append(slices.Clone(c.Outputs), output)}
		if !r.collect(deeper, in.Dynamic[output]) {
			return false
		}
	}
	return true
}

func (r *resolution) output(c Chain, output string) (storepath.Path, bool) {
	c.Outputs = append(slices.Clone(c.Outputs), output)
	path, ok := r.lookup(c)
	if ok {
		r.sources = append(r.sources, path)
		r.rewrites = append(r.rewrites, c.Placeholder().String(), r.dir.Join(path))
	}
	return path, ok
}

// rewrite replaces placeholders wherever a derivation can have them.
func (d *Derivation) rewrite(replace *strings.Replacer) {
	d.Builder = replace.Replace(d.Builder)
	for i, a := range d.Args {
		d.Args[i] = replace.Replace(a)
	}
	env := make(map[string]string, len(d.Env))
	for key, value := range d.Env {
		env[replace.Replace(key)] = replace.Replace(value)
	}
	d.Env = env
}
