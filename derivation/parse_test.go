package derivation

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	godrv "github.com/nix-community/go-nix/pkg/derivation"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

func TestVectors(t *testing.T) {
	for _, name := range drvVectors {
		t.Run(name, func(t *testing.T) {
			want := vectorJSON(t, name+".json")
			text := drvVector(t, name)
			d, err := Parse(dir, want.Name, text)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(d, want) {
				t.Errorf("parsed\n%+v, want\n%+v", d, want)
			}
			if got := want.Format(dir); !bytes.Equal(got, text) {
				t.Errorf("formatted\n%s, want\n%s", got, text)
			}
			if c := d.Clone(); !reflect.DeepEqual(c, d) {
				t.Errorf("clone\n%+v", c)
			}
		})
	}
}

// TestBigVectors reads nixpkgs' derivations, in which all hashes were replaced.
func TestBigVectors(t *testing.T) {
	for _, name := range []string{"hello", "firefox"} {
		text := vector(t, name+".drv")
		d, err := Parse(dir, name, text)
		if err != nil {
			t.Fatal(err)
		}
		formatted := d.Format(dir)
		if len(formatted) != len(bytes.TrimSpace(text)) {
			t.Errorf("%s: %d bytes, formatted again %d", name, len(text), len(formatted))
		}
		again, err := Parse(dir, name, formatted)
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Errorf("%s: parsed again differently, %v", name, err)
		}
	}
}

func TestFormatLikeGoNix(t *testing.T) {
	for _, name := range drvVectors {
		if name == "dyn-dep-derivation" {
			continue // it knows none of these
		}
		text := drvVector(t, name)
		theirs, err := godrv.ReadDerivation(bytes.NewReader(text))
		if err != nil {
			continue // and no floating or deferred outputs
		}
		var b bytes.Buffer
		if err := theirs.WriteDerivation(&b); err != nil {
			t.Fatal(err)
		}
		d, err := Parse(dir, vectorJSON(t, name+".json").Name, text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.Format(dir), b.Bytes()) {
			t.Errorf("%s: go-nix writes\n%s", name, &b)
		}
		if len(d.References()) != len(d.InputDrvs)+len(d.InputSrcs) {
			continue // it counts an input twice that is a source, too
		}
		want, err := theirs.DrvPath()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Path(dir); err != nil || dir.Join(got) != want {
			t.Errorf("%s: %v, go-nix %s, %v", name, got, want, err)
		}
	}
}

func TestBadVectors(t *testing.T) {
	for name, text := range map[string]string{
		"bad-version":              "Unknown derivation ATerm format version 'invalid-version'",
		"bad-old-version-dyn-deps": "expected string '['",
		"bad-ca-fixed-path":        "has incorrect path",
	} {
		_, err := Parse(dir, "fixed", vector(t, name+".drv"))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const (
	somePath = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x"
	plain    = `Derive([("out","` + somePath + `","","")],[("` + somePath + `.drv",["dev","out"])],["` + somePath + `"],"s","/b",["a","b"],[("k","v"),("out","` + somePath + `")])`
)

func TestEscapes(t *testing.T) {
	text := strings.Replace(plain, `"v"`, `"\"\\\n\r\tä$\a'"`, 1)
	d, err := Parse(dir, "x", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\"\\\n\r\tä$a'"; d.Env["k"] != want {
		t.Errorf("%q, want %q", d.Env["k"], want)
	}
	if got := string(d.Format(dir)); got != strings.Replace(text, `\a`, "a", 1) {
		t.Errorf("formatted: %s", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for n := range len(plain) {
		if _, err := Parse(dir, "x", []byte(plain[:n])); !errors.Is(err, ErrInvalid) && !errors.Is(err, storepath.ErrBadPath) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
	replace := func(old, with string) string {
		if !strings.Contains(plain, old) {
			t.Fatalf("%q is not in the text", old)
		}
		return strings.Replace(plain, old, with, 1)
	}
	for name, c := range map[string][2]string{
		"empty":             {"", "does not start with 'Derive'"},
		"tail":              {plain + "\n", "behind the derivation"},
		"space":             {replace(`,["a"`, `, ["a"`), "expected string"},
		"string open":       {`Derive([("out`, "unterminated string"},
		"ends in escape":    {`Derive([("out\`, "unterminated string"},
		"long open string":  {`Derive([("` + strings.Repeat("x", 1<<20), "unterminated string"},
		"no comma":          {replace(`"a","b"`, `"a""b"`), "expected string ','"},
		"comma first":       {replace(`["a"`, `[,"a"`), `expected string '"'`},
		"comma last":        {replace(`"b"]`, `"b",]`), `expected string '"'`},
		"relative path":     {replace(`["`+somePath, `["x`), "bad path 'x' in derivation"},
		"empty path":        {replace(`["`+somePath, `["`), "bad path '' in derivation"},
		"foreign path":      {replace(`["/nix/`, `["/gnu/`), "is not in the Nix store"},
		"output twice":      {replace(`[("out"`, `[("out","","",""),("out"`), "output 'out' twice"},
		"bad output name":   {replace(`[("out"`, `[("../out"`), "bad output name"},
		"no output name":    {replace(`[("out"`, `[(""`), "bad output name"},
		"variable twice":    {replace(`("k","v")`, `("k","v"),("k","v")`), "variable 'k' twice"},
		"input twice":       {replace(`["dev","out"])`, `["dev"]),("`+somePath+`.drv",["out"])`), "twice"},
		"pair of three":     {replace(`("k","v")`, `("k","v","w")`), "expected string ')'"},
		"unknown algorithm": {replace(`"","")]`, `"r:sha3","")]`), "unknown hash algorithm"},
		"hash only":         {replace(`"","")]`, `"","00")]`), "hash without an algorithm"},
		"bad hash":          {replace(`"","")]`, `"sha256","00")]`), "wrong length"},
		"floating path":     {replace(`"","")]`, `"sha256","")]`), "should not specify output path"},
		"impure path":       {replace(`"","")]`, `"sha256","impure")]`), "should not specify output path"},
		"dynamic, old form": {replace(`["dev","out"]`, `(["dev"],[])`), "expected string '['"},
	} {
		_, err := Parse(dir, "x", []byte(c[0]))
		if err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %q", name, err, c[1])
		}
	}
}

func nested(levels int) string {
	return `DrvWithVersion("xp-dyn-drv",[],[("` + somePath + `.drv",` +
		strings.Repeat(`([],[("o",`, levels) + `["out"]` + strings.Repeat(`)])`, levels) + `)],[],"","",[],[])`
}

func TestNesting(t *testing.T) {
	d, err := Parse(dir, "x", []byte(nested(maxNesting)))
	if err != nil {
		t.Fatal(err)
	}
	if string(d.Format(dir)) != nested(maxNesting) || !d.HasDynamicInputs() {
		t.Error("deep dynamic inputs are formatted differently")
	}
	for _, levels := range []int{maxNesting + 1, 1_000_000} {
		if _, err := Parse(dir, "x", []byte(nested(levels))); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d levels: %v", levels, err)
		}
	}
}

func TestSetsAreSorted(t *testing.T) {
	p := base(t, strings.TrimPrefix(somePath, "/nix/store/"))
	q := base(t, "1"+p.Base()[1:])
	text := `Derive([("out","","",""),("dev","","","")],[("` + dir.Join(q) + `",["out","dev","out"]),("` + dir.Join(p) + `",[])],["` +
		dir.Join(q) + `","` + dir.Join(p) + `","` + dir.Join(q) + `"],"","",["b","a"],[("b",""),("a","")])`
	want := `Derive([("dev","","",""),("out","","","")],[("` + dir.Join(p) + `",[]),("` + dir.Join(q) + `",["dev","out"])],["` +
		dir.Join(p) + `","` + dir.Join(q) + `"],"","",["b","a"],[("a",""),("b","")])`
	d, err := Parse(dir, "x", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(d.Format(dir)); got != want {
		t.Errorf("formatted\n%s, want\n%s", got, want)
	}
}

func TestType(t *testing.T) {
	floating := func(a nixhash.Algo) Output { return Output{Kind: Floating, Method: storepath.NAR, Algo: a} }
	ia, deferred, fixed := Output{Kind: InputAddressed}, Output{Kind: Deferred}, Output{Kind: Fixed}
	impure := Output{Kind: Impure, Method: storepath.NAR, Algo: nixhash.SHA256}
	for name, c := range map[string]struct {
		outputs map[string]Output
		kind    Kind
		text    string
	}{
		"none":            {nil, 0, "must have at least one output"},
		"input-addressed": {map[string]Output{"out": ia, "dev": ia}, InputAddressed, ""},
		"deferred":        {map[string]Output{"out": deferred, "dev": deferred}, Deferred, ""},
		"fixed":           {map[string]Output{"out": fixed}, Fixed, ""},
		"fixed dev":       {map[string]Output{"dev": fixed}, 0, `single fixed output must be named "out"`},
		"two fixed":       {map[string]Output{"out": fixed, "dev": fixed}, 0, "fixed output"},
		"floating":        {map[string]Output{"out": floating(nixhash.SHA256), "dev": floating(nixhash.SHA256)}, Floating, ""},
		"two algorithms":  {map[string]Output{"out": floating(nixhash.SHA256), "dev": floating(nixhash.SHA512)}, 0, "all floating outputs must use the same hash algorithm"},
		"impure":          {map[string]Output{"out": impure}, Impure, ""},
		"mixed":           {map[string]Output{"out": ia, "dev": deferred}, 0, "can't mix derivation output types"},
	} {
		d := &Derivation{Outputs: c.outputs}
		kind, err := d.Type()
		if kind != c.kind || (err == nil) != (c.text == "") || err != nil && (!strings.Contains(err.Error(), c.text) || !errors.Is(err, ErrInvalid)) {
			t.Errorf("%s: %v, %v", name, kind, err)
		}
		if d.IsFixed() != (c.kind == Fixed) {
			t.Errorf("%s: IsFixed", name)
		}
	}
}

func TestParts(t *testing.T) {
	d := vectorJSON(t, "ia/advanced-attributes-structured-attrs.json")
	if attrs, ok := d.StructuredAttrs(); !ok || !bytes.Contains(attrs, []byte("UNICORN")) {
		t.Errorf("structured attributes: %s", attrs)
	}
	if refs := d.References(); len(refs) != len(d.InputDrvs)+len(d.InputSrcs) && len(refs) == 0 {
		t.Errorf("references: %v", refs)
	}
	if name, err := NameFromPath(base(t, "00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv")); err != nil || name != "x" {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := NameFromPath(base(t, "00bgd045z0d4icpbc2yyz4gx48ak44la-x")); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if (&Derivation{Builder: "builtin:fetchurl"}).IsBuiltin() != true || d.IsBuiltin() {
		t.Error("IsBuiltin")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(plain))
	f.Add([]byte(nested(3)))
	f.Add([]byte(`Derive([("out","","r:sha256",""),("x","","text:sha1","impure")],[],[],"","",[],[("\n\\\"","")])`))
	f.Add([]byte(`Derive([("out","/nix/store/i00sflxqsj37lfmf95m8mn0grv615hpj-source","r:sha256","894517c9163c896ec31a2adbd33c0681fd5f45b2c0ef08a64c92a03fb97f390f")],[],[],"x86_64-linux","/bin/first",[],[("out","/nix/store/i00sflxqsj37lfmf95m8mn0grv615hpj-source")])`))
	f.Add([]byte(`Derive([("out`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(dir, "source", data)
		if err != nil {
			return
		}
		text := d.Format(dir)
		again, err := Parse(dir, "source", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !bytes.Equal(again.Format(dir), text) {
			t.Fatalf("formatted\n%s, then\n%s", text, again.Format(dir))
		}
		_, _ = d.Type()
		_, _ = d.Path(dir)
	})
}

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"hello", "firefox"} {
		b.Run(name, func(b *testing.B) {
			text := vector(b, name+".drv")
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(dir, name, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFormat(b *testing.B) {
	for _, name := range []string{"hello", "firefox"} {
		b.Run(name, func(b *testing.B) {
			d, err := Parse(dir, name, vector(b, name+".drv"))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(d.Format(dir))))
			b.ReportAllocs()
			for b.Loop() {
				d.Format(dir)
			}
		})
	}
}
