package derivation

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// library is a set of derivations by path.
type library map[storepath.Path]*Derivation

var errAbsent = errors.New("no such derivation")

func (l library) resolve(p storepath.Path) (*Derivation, error) {
	d, ok := l[p]
	if !ok {
		return nil, errAbsent
	}
	return d, nil
}

// add puts a derivation under its own path.
func (l library) add(t testing.TB, d *Derivation) storepath.Path {
	t.Helper()
	p, err := d.Path(dir)
	if err != nil {
		t.Fatal(err)
	}
	l[p] = d
	return p
}

func moduloLibrary(t testing.TB) library {
	l := library{}
	for _, name := range []string{"source-first", "source-second", "intermediate-first", "intermediate-second", "parent-split", "parent-joined"} {
		l.add(t, vectorJSON(t, "hash-modulo/"+name+".json"))
	}
	return l
}

func TestModuloVectors(t *testing.T) {
	l := moduloLibrary(t)
	h := NewHasher(dir)
	for _, name := range []string{"intermediate-first", "intermediate-second", "parent-split", "parent-joined"} {
		m, err := h.HashModulo(vectorJSON(t, "hash-modulo/"+name+".json"), l.resolve)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// The file has the very text that is hashed.
		if want := nixhash.Sum(nixhash.SHA256, vector(t, "hash-modulo/"+name+"-modulo.drv")); m.Hash != want || m.Deferred {
			t.Errorf("%s: %v, want %v", name, m.Hash, want)
		}
	}
}

// dependency answers for every path with a derivation of floating output.
func dependency(storepath.Path) (*Derivation, error) {
	return &Derivation{Name: "dependency", Builder: "/bin/sh", Outputs: map[string]Output{
		"out": {Kind: Floating, Method: storepath.NAR, Algo: nixhash.SHA256},
	}}, nil
}

func TestFillVectors(t *testing.T) {
	for before, after := range map[string]string{
		"filled-in-deferred-empty-env-var-pre": "filled-in-deferred-empty-env-var-post",
		"filled-in-deferred-no-env-var-pre":    "filled-in-deferred-no-env-var-post",
		"filled-in-idempotent":                 "filled-in-idempotent",
		"depends-on-drv-pre":                   "depends-on-drv-pre",
	} {
		d, want := vectorJSON(t, "invariants/"+before+".json"), vectorJSON(t, "invariants/"+after+".json")
		if err := NewHasher(dir).Fill(d, dependency); err != nil {
			t.Errorf("%s: %v", before, err)
		}
		if !maps.Equal(d.Outputs, want.Outputs) || !maps.Equal(d.Env, want.Env) {
			t.Errorf("%s: %v %v", before, d.Outputs, d.Env)
		}
	}
	d := vectorJSON(t, "invariants/bad-env-var.json")
	if err := NewHasher(dir).Fill(d, nil); err != nil || d.Env["out"] != dir.Join(d.Outputs["out"].Path) {
		t.Errorf("wrong variable: %v, %v", d.Env, err)
	}
}

func TestCheckRefuses(t *testing.T) {
	filled := func(change func(*Derivation)) *Derivation {
		d := vectorJSON(t, "invariants/filled-in-idempotent.json")
		change(d)
		return d
	}
	fixed := vectorJSON(t, "hash-modulo/source-first.json")
	fixed.Env["out"] = "/nix/store/c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-source"
	for name, c := range map[string]struct {
		d    *Derivation
		text string
	}{
		"bad-path":       {vectorJSON(t, "invariants/bad-path.json"), "has incorrect output '/nix/store/c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-wrong-name', should be '/nix/store/"},
		"deferred":       {vectorJSON(t, "invariants/bad-depends-on-drv-pre.json"), "has incorrect output '/nix/store/c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-wrong-name', should be deferred"},
		"variable":       {filled(func(d *Derivation) { d.Env["out"] = "/tmp" }), "has incorrect environment variable 'out', should be '/nix/store/w4bk7hpyxzgy2gx8fsa8f952435pll3i-filled-in-already'"},
		"no variable":    {filled(func(d *Derivation) { delete(d.Env, "out") }), "has incorrect"},
		"fixed variable": {fixed, "has incorrect environment variable 'out', should be '/nix/store/i00sflxqsj37lfmf95m8mn0grv615hpj-source'"},
		"no output":      {filled(func(d *Derivation) { d.Outputs = nil }), "must have at least one output"},
		"more variables": {filled(func(d *Derivation) { d.Env["x"] = "y" }), "has incorrect output"},
	} {
		p, err := c.d.Path(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = NewHasher(dir).Check(c.d, p, dependency)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.text) || !strings.HasPrefix(err.Error(), "derivation '/nix/store/") {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
	good := filled(func(*Derivation) {})
	for path, text := range map[string]string{
		"c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-other.drv":         "has name 'filled-in-already' which does not match its path",
		"c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-filled-in-already": "is not a valid derivation path",
	} {
		if err := NewHasher(dir).Check(good, base(t, path), nil); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestModuloRefuses(t *testing.T) {
	l := library{}
	source := l.add(t, vectorJSON(t, "hash-modulo/source-first.json"))
	d := &Derivation{Name: "x", Outputs: map[string]Output{"out": {Kind: Deferred}}}
	d.InputDrvs = map[storepath.Path]InputOutputs{source: {Outputs: []string{"dev"}}}
	if _, err := NewHasher(dir).HashModulo(d, l.resolve); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "no hash for output 'dev' of derivation 'x'") {
		t.Errorf("absent output: %v", err)
	}
	if _, err := NewHasher(dir).HashModulo(d, library{}.resolve); !errors.Is(err, errAbsent) {
		t.Errorf("absent input: %v", err)
	}
	// Nobody can make such texts, but a broken disk might.
	self := base(t, "c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-x.drv")
	d.InputDrvs = map[storepath.Path]InputOutputs{self: {Outputs: []string{"out"}}}
	if _, err := NewHasher(dir).HashModulo(d, library{self: d}.resolve); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "depends on itself") {
		t.Errorf("cycle: %v", err)
	}
}

func TestDeferredSpreads(t *testing.T) {
	l := library{}
	floating, _ := dependency(storepath.Path{})
	below := l.add(t, floating)
	h := NewHasher(dir)
	for i := range 3 {
		d := &Derivation{Name: fmt.Sprint("d", i), Outputs: map[string]Output{"out": {Kind: Deferred}}, Env: map[string]string{}}
		d.InputDrvs = map[storepath.Path]InputOutputs{below: {Outputs: []string{"out"}}}
		if m, err := h.HashModulo(d, l.resolve); err != nil || !m.Deferred || m.Hash.IsZero() {
			t.Errorf("level %d: %+v, %v", i, m, err)
		}
		if err := h.Fill(d, l.resolve); err != nil || d.Outputs["out"].Kind != Deferred {
			t.Errorf("level %d: filled %v, %v", i, d.Outputs, err)
		}
		below = l.add(t, d)
	}
	// A fixed output stops it.
	fixed := vectorJSON(t, "hash-modulo/source-first.json")
	fixed.InputDrvs = map[storepath.Path]InputOutputs{below: {Outputs: []string{"out"}}}
	d := &Derivation{Name: "x", Outputs: map[string]Output{"out": {Kind: Deferred}}}
	d.InputDrvs = map[storepath.Path]InputOutputs{l.add(t, fixed): {Outputs: []string{"out"}}}
	if m, err := h.HashModulo(d, l.resolve); err != nil || m.Deferred {
		t.Errorf("above a fixed output: %+v, %v", m, err)
	}
	// A dynamic input brings it back.
	d.InputDrvs = map[storepath.Path]InputOutputs{l.add(t, fixed): {Dynamic: map[string]InputOutputs{"out": {Outputs: []string{"out"}}}}}
	if m, err := h.HashModulo(d, l.resolve); err != nil || !m.Deferred {
		t.Errorf("with a dynamic input: %+v, %v", m, err)
	}
}

// chain makes derivations of which each needs the one before it and the first.
func chain(t testing.TB, length int) (library, *Derivation) {
	l := make(library, length)
	h := NewHasher(dir)
	var first, last storepath.Path
	var d *Derivation
	for i := range length {
		d = &Derivation{
			Name: fmt.Sprintf("link-%d", i), System: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", "echo > $out"},
			Outputs: map[string]Output{"out": {Kind: Deferred}},
			Env:     map[string]string{"name": "link", "script": strings.Repeat("line of a script\n", 50)},
		}
		if i > 0 {
			d.InputDrvs = map[storepath.Path]InputOutputs{first: {Outputs: []string{"out"}}, last: {Outputs: []string{"out"}}}
		}
		d.Env["out"] = ""
		if err := h.Fill(d, l.resolve); err != nil {
			t.Fatal(err)
		}
		last = l.add(t, d)
		if i == 0 {
			first = last
		}
	}
	return l, d
}

func TestLongChain(t *testing.T) {
	l, d := chain(t, 3*parsedLimit)
	reads := 0
	p, err := d.Path(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHasher(dir)
	resolve := func(p storepath.Path) (*Derivation, error) { reads++; return l.resolve(p) }
	if err := h.Check(d, p, resolve); err != nil {
		t.Fatal(err)
	}
	if reads > 2*len(l) {
		t.Errorf("%d reads for %d derivations", reads, len(l))
	}
	reads = 0
	if err := h.Check(d, p, resolve); err != nil || reads != 0 {
		t.Errorf("then %d reads, %v", reads, err)
	}
}

func TestConcurrentHashing(t *testing.T) {
	l, d := chain(t, 100)
	h := NewHasher(dir)
	want, err := h.HashModulo(d, l.resolve)
	if err != nil {
		t.Fatal(err)
	}
	h = NewHasher(dir)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if m, err := h.HashModulo(d, l.resolve); err != nil || m.Hash != want.Hash {
				t.Errorf("%v, %v", m.Hash, err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkHashModulo(b *testing.B) {
	const length = 2000
	l, d := chain(b, length)
	texts := make(map[storepath.Path][]byte, length)
	for p, d := range l {
		texts[p] = d.Format(dir)
	}
	resolve := func(p storepath.Path) (*Derivation, error) {
		name, err := NameFromPath(p)
		if err != nil {
			return nil, err
		}
		return Parse(dir, name, texts[p])
	}
	b.Run("cold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := NewHasher(dir).HashModulo(d, resolve); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/length, "µs/drv")
	})
	b.Run("warm", func(b *testing.B) {
		h := NewHasher(dir)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.HashModulo(d, resolve); err != nil {
				b.Fatal(err)
			}
		}
	})
}
