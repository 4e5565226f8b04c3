package derivation

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/storepath"
)

// traceLookup reads a vector that says what outputs came to.
func traceLookup(t *testing.T, name string) func(Chain) (storepath.Path, bool) {
	t.Helper()
	var rows [][2]json.RawMessage
	if err := json.Unmarshal(vector(t, name), &rows); err != nil {
		t.Fatal(err)
	}
	type key struct{ drv, output string }
	known := map[key]storepath.Path{}
	for _, row := range rows {
		var k struct{ DrvPath, Output string }
		var p string
		if err := errors.Join(json.Unmarshal(row[0], &k), json.Unmarshal(row[1], &p)); err != nil {
			t.Fatal(err)
		}
		known[key{k.DrvPath, k.Output}] = base(t, p)
	}
	return func(c Chain) (storepath.Path, bool) {
		p, ok := known[key{c.Drv.Base(), c.Outputs[len(c.Outputs)-1]}]
		return p, ok && len(c.Outputs) == 1
	}
}

func TestResolveVectors(t *testing.T) {
	for name, after := range map[string]string{
		"no-inputs": "after", "with-inputs": "after", "export-ref-subpath": "resolved", "export-ref-subpath-sa": "resolved",
	} {
		t.Run(name, func(t *testing.T) {
			d := vectorJSON(t, "try-resolve/"+name+"-before.json")
			want := vectorJSON(t, "try-resolve/"+name+"-"+after+".json")
			before := d.Clone()
			got, ok, err := NewHasher(dir).Resolve(d, traceLookup(t, "try-resolve/"+name+"-buildTrace.json"))
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			if !reflect.DeepEqual(got.InputSrcs, want.InputSrcs) || !maps.Equal(got.Env, want.Env) || !maps.Equal(got.Outputs, want.Outputs) || len(got.InputDrvs) != 0 {
				t.Errorf("%+v, want\n%+v", got, want)
			}
			if !reflect.DeepEqual(d, before) {
				t.Error("the original was changed")
			}
		})
	}
	d := vectorJSON(t, "try-resolve/resolution-failure-before.json")
	if got, ok, err := NewHasher(dir).Resolve(d, traceLookup(t, "try-resolve/resolution-failure-buildTrace.json")); ok || got != nil || err != nil {
		t.Errorf("unknown output: %v, %v, %v", got, ok, err)
	}
}

func TestResolveDynamic(t *testing.T) {
	d := vectorJSON(t, "dyn-dep-derivation.json")
	d.Outputs = map[string]Output{"out": {Kind: Deferred}}
	var asked []string
	out := base(t, "00bgd045z0d4icpbc2yyz4gx48ak44la-found")
	kitten := Chain{base(t, "c015dhfh5l0lp6wxyvdn7bmwhbbr6hr9-dep2.drv"), []string{"cat", "kitten"}}
	d.Args = []string{"--at=" + kitten.Placeholder().String() + "/x"}
	if !d.NeedsResolving() {
		t.Error("a dynamic input needs no resolving")
	}
	got, ok, err := NewHasher(dir).Resolve(d, func(c Chain) (storepath.Path, bool) {
		asked = append(asked, strings.Join(c.Outputs, "^"))
		return out, true
	})
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if want := "cat dog cat^kitten goose^gosling"; strings.Join(asked, " ") != want {
		t.Errorf("asked for %v", asked)
	}
	if got.Args[0] != "--at="+dir.Join(out)+"/x" {
		t.Errorf("argument %q", got.Args[0])
	}
	if o := got.Outputs["out"]; o.Kind != InputAddressed || got.Env["out"] != dir.Join(o.Path) {
		t.Errorf("output %v", o)
	}
	p, err := got.Path(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Nix makes the path before it adds a variable that was absent.
	if err := NewHasher(dir).Check(got, p, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("check: %v", err)
	}
	if got.NeedsResolving() {
		t.Error("the result needs resolving")
	}
}

// The placeholders are those of Nix's own tests.
func TestPlaceholders(t *testing.T) {
	if got := OwnPlaceholder("out").String(); got != "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9" {
		t.Errorf("own: %s", got)
	}
	foo := base(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv")
	if got := InputPlaceholder(foo, "out").String(); got != "/0c6rn30q4frawknapgwq386zq358m8r6msvywcvc89n6m5p2dgbz" {
		t.Errorf("input: %s", got)
	}
	dyn := base(t, "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv.drv")
	if got := InputPlaceholder(dyn, "out").Output("out").String(); got != "/0gn6agqxjyyalf0dpihgyf49xq5hqxgw100f0wydnj6yqrhqsb3w" {
		t.Errorf("dynamic: %s", got)
	}
}
