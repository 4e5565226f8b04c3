package storepath

import (
	"errors"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
)

func parsed(t *testing.T, base string) Path {
	t.Helper()
	p, err := ParseBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The paths are those that Nix makes of the same contents.
func TestFromContentAddress(t *testing.T) {
	for _, c := range []struct {
		what, name, ca, path string
		refs                 References
	}{
		// builtins.toFile "foo" "bar", fetchurl and the like, from the tests of Nix and tvix.
		{"text", "foo", "text:sha256:" + nixhash.Sum(nixhash.SHA256, []byte("bar")).Nix32(), "vxjiwkjkn7x4079qvh1jkl5pn05j2aw0-foo", References{}},
		{"fixed", "bar", "fixed:r:sha1:0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33", "mp57d33657rf34lzvlbpfa1gjfv5gmpg-bar", References{}},
		// nix-store --print-fixed-path.
		{"source", "bar", "fixed:r:sha256:08813cbee9903c62be4c5027726a418a300da4500b2d369d3af9286f4815ceba", "4q0pg5zpfmznxscq3avycvf9xdvx50n3-bar", References{}},
		{"flat", "bar", "fixed:sha256:08813cbee9903c62be4c5027726a418a300da4500b2d369d3af9286f4815ceba", "k17ysmlc7ih04qi7ss9iilz2866514i1-bar", References{}},
		{"flat md5", "bar", "fixed:md5:900150983cd24fb0d6963f7d28e17f72", "xa88fxxibddg73j444xgpww2nih4qx4w-bar", References{}},
	} {
		ca, err := ParseContentAddress(c.ca)
		if err != nil {
			t.Fatal(err)
		}
		p, err := DefaultDir.FromContentAddress(c.name, ca, c.refs)
		if err != nil {
			t.Fatal(err)
		}
		if p.Base() != c.path {
			t.Errorf("%s: %s, want %s", c.what, p, c.path)
		}
	}
}

func TestReferencesMatter(t *testing.T) {
	a, b := parsed(t, someHash+"-a"), parsed(t, someHash+"-b")
	ca := ContentAddress{NAR, nixhash.Sum(nixhash.SHA256, nil)}
	seen := map[Path]bool{}
	for _, refs := range []References{{}, {Self: true}, {Others: []Path{a}}, {Others: []Path{a}, Self: true}, {Others: []Path{a, b}}} {
		p, err := DefaultDir.FromContentAddress("x", ca, refs)
		if err != nil || seen[p] {
			t.Errorf("%v: %v, %v", refs, p, err)
		}
		seen[p] = true
	}
	order := []Path{b, a, b}
	p, err := DefaultDir.FromContentAddress("x", ca, References{Others: order})
	if err != nil || !seen[p] {
		t.Errorf("order or repetition of references changes the path: %v, %v", p, err)
	}
	if order[0] != b {
		t.Error("the caller's references were sorted")
	}
}

func TestFromContentAddressRefuses(t *testing.T) {
	a := parsed(t, someHash+"-a")
	sha1, sha256 := nixhash.Sum(nixhash.SHA1, nil), nixhash.Sum(nixhash.SHA256, nil)
	for _, c := range []struct {
		name string
		ca   ContentAddress
		refs References
		text string
	}{
		{"x", ContentAddress{}, References{}, "without a content address"},
		{"x", ContentAddress{Text, sha256}, References{Self: true}, "self-reference not allowed with text hashing"},
		{"x", ContentAddress{Text, sha1}, References{}, "text hashing must use SHA-256"},
		{"x", ContentAddress{NAR, sha1}, References{Self: true}, "fixed output derivation 'x' is not allowed to refer to other store paths"},
		{"x", ContentAddress{Flat, sha256}, References{Others: []Path{a}}, "is not allowed to refer to other store paths"},
		{"x", ContentAddress{Git, nixhash.Sum(nixhash.MD5, nil)}, References{}, "Git file ingestion must use SHA-1"},
		{"x/y", ContentAddress{Flat, sha256}, References{}, "illegal character '/'"},
		{"", ContentAddress{NAR, sha256}, References{}, "must not be empty"},
	} {
		_, err := DefaultDir.FromContentAddress(c.name, c.ca, c.refs)
		if err == nil || !strings.Contains(err.Error(), c.text) || !errors.Is(err, ErrBadPath) {
			t.Errorf("%v: %v, want %q", c.ca, err, c.text)
		}
	}
}

func TestOutputName(t *testing.T) {
	if OutputName("foo", "out") != "foo" || OutputName("foo", "dev") != "foo-dev" {
		t.Error("outputs are misnamed")
	}
	h := nixhash.Sum(nixhash.SHA256, nil)
	if p, err := DefaultDir.Output(h, "dev", "foo"); err != nil || p.Name() != "foo-dev" {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := DefaultDir.Output(h, strings.Repeat("d", 200), "fffffffffffff"); !errors.Is(err, ErrBadPath) {
		t.Errorf("a name that is too long: %v", err)
	}
}

func TestContentAddress(t *testing.T) {
	for _, method := range []Method{Text, Flat, NAR, Git} {
		for _, algo := range []nixhash.Algo{nixhash.SHA1, nixhash.SHA256} {
			ca := ContentAddress{method, nixhash.Sum(algo, []byte("x"))}
			if got, err := ParseContentAddress(ca.String()); err != nil || got != ca {
				t.Errorf("%s: %v, %v", ca, got, err)
			}
			if m, a, err := ParseMethodAlgo(method.WithAlgo(algo)); err != nil || m != method || a != algo {
				t.Errorf("%s: %v, %v, %v", method.WithAlgo(algo), m, a, err)
			}
			if m, a, err := ParsePrefixedAlgo(method.Prefix() + algo.String()); err != nil || m != method || a != algo {
				t.Errorf("%s: %v, %v, %v", method.Prefix()+algo.String(), m, a, err)
			}
		}
	}
	if ca, err := ParseContentAddress(""); err != nil || !ca.IsZero() || ca.String() != "" {
		t.Errorf("none: %v, %v", ca, err)
	}
	for _, s := range []string{
		"x", "fixed", "fixed:", "fixed:sha256", "fixed:r:sha256", "fixed:r:sha256:", "fixed:r:x:00", "other:sha256:00",
		"text:r:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s", "fixed:sha256:sha256:00", "text:sha256-ungWv48Bz",
	} {
		if ca, err := ParseContentAddress(s); err == nil {
			t.Errorf("%q: %v", s, ca)
		}
	}
	for _, s := range []string{"", "sha256", "fixed", "fixed:", "fixed:sha256:", "text:r:sha256", "fixed:sha256:x"} {
		if m, a, err := ParseMethodAlgo(s); err == nil {
			t.Errorf("%q: %v, %v", s, m, a)
		}
	}
	for _, s := range []string{"", "r:", "r:r:sha256", "sha257", "fixed:sha256"} {
		if m, a, err := ParsePrefixedAlgo(s); err == nil {
			t.Errorf("%q: %v, %v", s, m, a)
		}
	}
}

func FuzzContentAddress(f *testing.F) {
	for _, s := range []string{
		"fixed:r:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s", "text:sha256:", "fixed:git:sha1:", "fixed:sha256:x", ":",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ca, err := ParseContentAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseContentAddress(ca.String()); err != nil || again != ca {
			t.Fatalf("%q: %v, %v", s, again, err)
		}
	})
}

func BenchmarkText(b *testing.B) {
	h := nixhash.Sum(nixhash.SHA256, nil)
	p, err := ParseBase(someHash + "-hello-2.12.drv")
	if err != nil {
		b.Fatal(err)
	}
	refs := []Path{p}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DefaultDir.Text("x.drv", h, refs); err != nil {
			b.Fatal(err)
		}
	}
}
