package derivation

import (
	"maps"
	"slices"

	"github.com/tvixd/tvixd/storepath"
)

// Format writes the derivation's text. Lists that are sets are sorted, so equal
// derivations have equal texts.
func (d *Derivation) Format(dir storepath.Dir) []byte {
	w := writer{dir: dir, b: make([]byte, 0, d.sizeHint())}
	w.derivation(d, nil, false)
	return w.b
}

// hashedInput stands for input derivations in the text that is hashed: their
// hash instead of a path.
type hashedInput struct {
	hash    string
	outputs []string
}

// sizeHint is about the size of the text.
func (d *Derivation) sizeHint() int {
	n := 256 + 128*(len(d.Outputs)+len(d.InputDrvs)+len(d.InputSrcs))
	for _, a := range d.Args {
		n += len(a) + 8
	}
	for k, v := range d.Env {
		n += len(k) + len(v) + len(v)/16 + 8
	}
	return n
}

type writer struct {
	dir storepath.Dir
	b   []byte
}

// derivation writes d. With inputs these replace the input derivations; mask
// leaves out the paths of d's own outputs.
func (w *writer) derivation(d *Derivation, inputs []hashedInput, mask bool) {
	if d.HasDynamicInputs() {
		w.text(`DrvWithVersion("` + dynamicVersion + `",[`)
	} else {
		w.text("Derive([")
	}
	w.outputs(d, mask)
	w.text("],[")
	if inputs != nil {
		for i, in := range inputs {
			w.sep(i, `("`)
			w.text(in.hash)
			w.text(`",`)
			w.names(in.outputs)
			w.text(")")
		}
	} else {
		w.inputDrvs(d)
	}
	w.text("],[")
	for i, p := range sortedPaths(d.InputSrcs) {
		w.sep(i, "")
		w.path(p)
	}
	w.text("],")
	w.str(d.System)
	w.text(",")
	w.str(d.Builder)
	w.text(",[")
	for i, a := range d.Args {
		w.sep(i, "")
		w.str(a)
	}
	w.text("],[")
	w.env(d, mask)
	w.text("])")
}

func (w *writer) outputs(d *Derivation, mask bool) {
	for i, name := range d.OutputNames() {
		path, methodAlgo, hash := d.Outputs[name].Strings(w.dir)
		if mask {
			path = ""
		}
		w.sep(i, "(")
		w.str(name)
		for _, s := range []string{path, methodAlgo, hash} {
			w.text(",")
			w.str(s)
		}
		w.text(")")
	}
}

func (w *writer) inputDrvs(d *Derivation) {
	for i, p := range slices.SortedFunc(maps.Keys(d.InputDrvs), storepath.Path.Compare) {
		w.sep(i, "(")
		w.path(p)
		w.text(",")
		w.inputOutputs(d.InputDrvs[p])
		w.text(")")
	}
}

func (w *writer) inputOutputs(in InputOutputs) {
	if len(in.Dynamic) == 0 {
		w.names(in.Outputs)
		return
	}
	w.text("(")
	w.names(in.Outputs)
	w.text(",[")
	for i, name := range slices.Sorted(maps.Keys(in.Dynamic)) {
		w.sep(i, "(")
		w.str(name)
		w.text(",")
		w.inputOutputs(in.Dynamic[name])
		w.text(")")
	}
	w.text("])")
}

func (w *writer) env(d *Derivation, mask bool) {
	for i, key := range slices.Sorted(maps.Keys(d.Env)) {
		value := d.Env[key]
		if _, isOutput := d.Outputs[key]; mask && isOutput {
			value = ""
		}
		w.sep(i, "(")
		w.str(key)
		w.text(",")
		w.str(value)
		w.text(")")
	}
}

// names writes a set of output names.
func (w *writer) names(names []string) {
	if !slices.IsSorted(names) {
		names = slices.Sorted(slices.Values(names))
	}
	w.text("[")
	for i, name := range names {
		w.sep(i, "")
		w.str(name)
	}
	w.text("]")
}

func (w *writer) text(s string) { w.b = append(w.b, s...) }

// sep writes the comma before all elements but the first, and what opens an element.
func (w *writer) sep(i int, open string) {
	if i > 0 {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, open...)
}

func (w *writer) path(p storepath.Path) {
	w.b = append(w.b, '"')
	w.b = w.dir.AppendJoin(w.b, p)
	w.b = append(w.b, '"')
}

func (w *writer) str(s string) {
	w.b = append(w.b, '"')
	done := 0
	for i := range len(s) {
		if e := escapes[s[i]]; e != 0 {
			w.b = append(w.b, s[done:i]...)
			w.b = append(w.b, '\\', e)
			done = i + 1
		}
	}
	w.b = append(w.b, s[done:]...)
	w.b = append(w.b, '"')
}

// escapes has what follows the backslash for the bytes that need one.
var escapes = [256]byte{'"': '"', '\\': '\\', '\n': 'n', '\r': 'r', '\t': 't'}

func sortedPaths(paths []storepath.Path) []storepath.Path {
	if slices.IsSortedFunc(paths, storepath.Path.Compare) {
		return paths
	}
	return storepath.SortUnique(slices.Clone(paths))
}
