package storepath

import (
	"errors"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	gonix "github.com/nix-community/go-nix/pkg/storepath"
)

const someHash = "00bgd045z0d4icpbc2yyz4gx48ak44la"

func TestParseBase(t *testing.T) {
	p, err := ParseBase(someHash + "-net-tools-1.60_p20170221182432")
	if err != nil {
		t.Fatal(err)
	}
	if p.HashPart() != someHash || p.Name() != "net-tools-1.60_p20170221182432" || p.Base() != p.String() || p.IsZero() {
		t.Errorf("%q %q", p.HashPart(), p.Name())
	}
	again, err := New(p.Digest(), p.Name())
	if err != nil || again != p {
		t.Errorf("New of the parts: %v, %v", again, err)
	}
	digest, err := ParseHashPart(someHash)
	if err != nil || digest != p.Digest() {
		t.Errorf("ParseHashPart: %x, %v", digest, err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{
		"a", "A-Z", "0", "+-._?=", "..a", ".gitignore", ".a-b", "...", "...-x", "-", "-rf", "a.drv",
		strings.Repeat("n", 211),
	} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"":                       "name must not be empty",
		".":                      "name '.' is not valid",
		"..":                     "name '..' is not valid",
		".-a":                    "name '.-a' is not valid: first dash-separated component must not be '.'",
		"..-a":                   "name '..-a' is not valid: first dash-separated component must not be '..'",
		"a/b":                    "name 'a/b' contains illegal character '/'",
		"a\x00":                  "name 'a\x00' contains illegal character '\x00'",
		"ä":                      "contains illegal character",
		"a b":                    "name 'a b' contains illegal character ' '",
		strings.Repeat("n", 212): "must be no longer than 211 characters",
	} {
		err := CheckName(name)
		if err == nil || !strings.Contains(err.Error(), text) || !errors.Is(err, ErrBadPath) {
			t.Errorf("%q: %v, want %q", name, err, text)
		}
	}
}

func TestParseBaseRefuses(t *testing.T) {
	for base, text := range map[string]string{
		"":                                "'' is too short to be a valid store path",
		someHash:                          "is too short",
		someHash + "-":                    "is not a valid store path: name must not be empty",
		someHash + ".x":                   "no '-' after the hash",
		"e" + someHash[1:] + "-x":         "contains illegal base-32 character 'e'",
		"A" + someHash[1:] + "-x":         "contains illegal base-32 character 'A'",
		someHash + "-x/y":                 "path '" + someHash + "-x/y' is not a valid store path: name 'x/y' contains illegal character '/'",
		someHash + strings.Repeat("-", 9): "",
	} {
		p, err := ParseBase(base)
		if text == "" {
			if err != nil {
				t.Errorf("%q: %v", base, err)
			}
			continue
		}
		if err == nil || !p.IsZero() || !strings.Contains(err.Error(), text) || !errors.Is(err, ErrBadPath) {
			t.Errorf("%q: %v, %v", base, p, err)
		}
	}
	for _, s := range []string{"", someHash[1:], someHash + "0", "e" + someHash[1:]} {
		if _, err := ParseHashPart(s); !errors.Is(err, ErrBadPath) {
			t.Errorf("ParseHashPart(%q): %v", s, err)
		}
	}
}

func TestZero(t *testing.T) {
	var p Path
	if !p.IsZero() || p.Base() != "" || p.Name() != "" || p.HashPart() != "" || p.IsDerivation() || p.Digest() != [20]byte{} {
		t.Error("the zero path has parts")
	}
	if DefaultDir.Join(p) != "" || len(DefaultDir.AppendJoin(nil, p)) != 0 {
		t.Error("the zero path has a place")
	}
}

func TestDirParse(t *testing.T) {
	want, _ := ParseBase(someHash + "-x")
	for _, full := range []string{
		"/nix/store/" + someHash + "-x",
		"/nix/store/" + someHash + "-x/",
		"//nix/./store//" + someHash + "-x/.",
		"/nix/var/../store/" + someHash + "-x",
		"/../nix/store/" + someHash + "-x/y/..",
	} {
		if p, err := DefaultDir.Parse(full); err != nil || p != want {
			t.Errorf("%q: %v, %v", full, p, err)
		}
	}
	for full, text := range map[string]string{
		"":                                   "not an absolute path: ''",
		someHash + "-x":                      "not an absolute path",
		"/":                                  "path '/' is not in the Nix store",
		"/nix/store":                         "path '/nix/store' is not in the Nix store",
		"/nix/store/":                        "path '/nix/store' is not in the Nix store",
		"/nix/store/..":                      "path '/nix' is not in the Nix store",
		"/nix/store/x":                       "'x' is too short to be a valid store path",
		"/nix/storex/" + want.Base():         "is not in the Nix store",
		"/nix/store/" + want.Base() + "/bin": "path '/nix/store/" + want.Base() + "/bin' is not in the Nix store",
		"/gnu/store/" + want.Base():          "path '/gnu/store/" + want.Base() + "' is not in the Nix store",
	} {
		if _, err := DefaultDir.Parse(full); err == nil || !strings.Contains(err.Error(), text) || !errors.Is(err, ErrBadPath) {
			t.Errorf("%q: %v, want %q", full, err, text)
		}
	}
}

func TestParseInside(t *testing.T) {
	base := someHash + "-x"
	for full, rest := range map[string]string{
		"/nix/store/" + base:              "",
		"/nix/store/" + base + "/":        "/",
		"/nix/store/" + base + "/bin/../": "/bin/../",
	} {
		if p, got, err := DefaultDir.ParseInside(full); err != nil || p.Base() != base || got != rest {
			t.Errorf("%q: %v, %q, %v", full, p, got, err)
		}
	}
	for _, full := range []string{"", "/nix/store", "/nix/store/", "/nix/store/x/y", "/nix/store//" + base, "/nix/store/../x"} {
		if p, _, err := DefaultDir.ParseInside(full); err == nil {
			t.Errorf("%q: %v", full, p)
		}
	}
}

func TestNewDir(t *testing.T) {
	for in, want := range map[string]Dir{"/nix/store": "/nix/store", "/tmp//a/../s/": "/tmp/s"} {
		if d, err := NewDir(in); err != nil || d != want {
			t.Errorf("%q: %q, %v", in, d, err)
		}
	}
	for _, in := range []string{"", "nix/store", "/", "/.."} {
		if d, err := NewDir(in); err == nil {
			t.Errorf("%q: %q", in, d)
		}
	}
}

func TestCanonicalLikePathClean(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	parts := []string{"", ".", "..", "a", "bb", "..."}
	for range 2000 {
		var b strings.Builder
		for range rng.IntN(8) {
			b.WriteString("/" + parts[rng.IntN(len(parts))])
		}
		in := "/" + b.String()
		if got, err := canonical(in); err != nil || got != path.Clean(in) {
			t.Fatalf("%q: %q, %v, want %q", in, got, err, path.Clean(in))
		}
	}
}

func TestSort(t *testing.T) {
	var paths []Path
	for _, s := range []string{"1", "0", "z", "0"} {
		p, err := ParseBase(s + someHash[1:] + "-x")
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	got := SortUnique(paths)
	if len(got) != 3 || !slices.IsSortedFunc(got, Path.Compare) {
		t.Errorf("%v", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"/nix/store/" + someHash + "-net-tools-1.60", "/nix/store/" + someHash + "-x.drv", "/nix/store//./" + someHash + "-x/",
		"/nix/store/" + someHash + "-.", "/nix/store/..", "/", "", "/nix/store/" + someHash + "-x/bin/../sh",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, rest, err := DefaultDir.ParseInside(s); err == nil && !strings.HasSuffix(s, rest) {
			t.Fatalf("%q: %v and %q", s, p, rest)
		}
		p, err := DefaultDir.Parse(s)
		if err != nil {
			if !p.IsZero() || !errors.Is(err, ErrBadPath) {
				t.Fatalf("%v with %v", p, err)
			}
			return
		}
		full := DefaultDir.Join(p)
		if again, err := DefaultDir.Parse(full); err != nil || again != p {
			t.Fatalf("%q: %v, %v", full, again, err)
		}
		if again, err := New(p.Digest(), p.Name()); err != nil || again != p {
			t.Fatalf("%q from its parts: %v, %v", full, again, err)
		}
		if path.Dir(path.Clean(full)) != "/nix/store" {
			t.Fatalf("%q leads out of the store", full)
		}
		if theirs, err := gonix.FromAbsolutePath(full); err == nil && theirs.String() != p.Base() {
			t.Fatalf("go-nix reads %q", theirs)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	full := "/nix/store/" + someHash + "-net-tools-1.60_p20170221182432"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DefaultDir.Parse(full); err != nil {
			b.Fatal(err)
		}
	}
}
