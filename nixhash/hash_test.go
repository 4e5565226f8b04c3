package nixhash

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	gonixhash "github.com/nix-community/go-nix/pkg/nixhash"
)

var allAlgos = []Algo{MD5, SHA1, SHA256, SHA512, BLAKE3}

// The digests of "abc", as nix hash shows them.
var abc = []struct{ algo, hex, nix32, base64 string }{
	{"md5", "900150983cd24fb0d6963f7d28e17f72", "3jgzhjhz9zjvbb0kyj7jc500ch", "kAFQmDzST7DWlj99KOF/cg=="},
	{"sha1", "a9993e364706816aba3e25717850c26c9cd0d89d", "kpcd173cq987hw957sx6m0868wv3x6d9", "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="},
	{"sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="},
	{"blake3", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85", "11cxppanr71mzl1xnyax8rccaj5milx2fx9vnvzk6la672nb6dv4", "ZDezrDhGUTP/tjt1JzqNtUjFWEZdedsD/TWcbNW9nYU="},
}

func TestKnown(t *testing.T) {
	for _, v := range abc {
		a, err := ParseAlgo(v.algo)
		if err != nil {
			t.Fatal(err)
		}
		h := Sum(a, []byte("abc"))
		if h.Base16() != v.hex || h.Nix32() != v.nix32 || h.Base64() != v.base64 {
			t.Errorf("%s: %s %s %s", v.algo, h.Base16(), h.Nix32(), h.Base64())
		}
		if h.String() != v.algo+":"+v.nix32 || h.SRI() != v.algo+"-"+v.base64 || h.Hex() != v.algo+":"+v.hex {
			t.Errorf("%s: %s %s %s", v.algo, h, h.SRI(), h.Hex())
		}
	}
}

func TestParseEveryForm(t *testing.T) {
	for _, a := range allAlgos {
		want := Sum(a, []byte("something"))
		for _, s := range []string{want.Base16(), strings.ToUpper(want.Base16()), want.Nix32(), want.Base64()} {
			for _, c := range []struct {
				s    string
				hint Algo
			}{{s, a}, {a.String() + ":" + s, 0}, {a.String() + ":" + s, a}} {
				if got, err := Parse(c.s, c.hint); err != nil || got != want {
					t.Errorf("Parse(%q, %v) = %v, %v", c.s, c.hint, got, err)
				}
			}
			if got, err := ParseDigest(s, a); err != nil || got != want {
				t.Errorf("ParseDigest(%q) = %v, %v", s, got, err)
			}
		}
		for _, sri := range []string{want.SRI(), strings.TrimRight(want.SRI(), "="), want.SRI() + "=?option"} {
			if got, err := Parse(sri, 0); err != nil || got != want {
				// Without padding there is nothing to end the digest at an option.
				if !strings.HasSuffix(want.SRI(), "=") && strings.HasSuffix(sri, "?option") {
					continue
				}
				t.Errorf("Parse(%q) = %v, %v", sri, got, err)
			}
		}
		if got, err := FromBytes(a, want.Bytes()); err != nil || got != want {
			t.Errorf("FromBytes = %v, %v", got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	sha256 := abc[2]
	for _, c := range []struct {
		s    string
		hint Algo
		text string
	}{
		{"", 0, "does not include a type"},
		{sha256.hex, 0, "does not include a type"},
		{sha256.hex[1:], SHA256, "wrong length"},
		{"sha256:" + sha256.hex, SHA1, "should have type 'sha1'"},
		{"sha3:" + sha256.hex, 0, "unknown hash algorithm 'sha3'"},
		{"SHA256:" + sha256.hex, 0, "unknown hash algorithm"},
		{"sha256-" + sha256.hex, 0, "expected length 32"},
		{"sha256:" + strings.Replace(sha256.hex, "b", "g", 1), 0, "Base16"},
		{"sha256:" + strings.Replace(sha256.nix32, "b", "e", 1), 0, "Nix32"},
		{"sha256:z" + sha256.nix32[1:], 0, "past its last byte"},
		{"sha256:*" + sha256.base64[1:], 0, "Base64"},
		{"sha256-" + sha256.base64[:40], 0, "length 30 != expected length 32"},
		{"sha256-" + strings.Repeat("A", 1000), 0, "expected length 32"},
		{"sha256:", 0, "wrong length"},
	} {
		_, err := Parse(c.s, c.hint)
		if err == nil || !errors.Is(err, ErrBadHash) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("Parse(%q, %v): %v, want %q", c.s, c.hint, err, c.text)
		}
	}
	if _, err := FromBytes(SHA256, make([]byte, 31)); !errors.Is(err, ErrBadHash) {
		t.Errorf("FromBytes of 31 bytes: %v", err)
	}
	if _, err := FromBytes(0, nil); !errors.Is(err, ErrBadHash) {
		t.Errorf("FromBytes of no algorithm: %v", err)
	}
}

func TestZero(t *testing.T) {
	var h Hash
	if !h.IsZero() || h.String() != "" || h.SRI() != "" || h.Hex() != "" || len(h.Bytes()) != 0 {
		t.Errorf("zero hash: %q %q", h, h.SRI())
	}
	if Algo(0).String() != "" || Algo(0).Size() != 0 || Algo(99).String() != "" {
		t.Error("no algorithm has a name")
	}
}

func TestCompare(t *testing.T) {
	small, big := Sum(SHA1, nil), Sum(SHA256, nil)
	if small.Compare(big) >= 0 || big.Compare(small) <= 0 || big.Compare(big) != 0 {
		t.Error("hashes are not ordered by size")
	}
	if a, b := Sum(SHA256, nil), Sum(BLAKE3, nil); a.Compare(b) != -b.Compare(a) {
		t.Error("order is not antisymmetric")
	}
}

func TestNix32LikeGoNix(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for size := range 70 {
		src := make([]byte, size)
		for i := range src {
			src[i] = byte(rng.Uint32())
		}
		s := string(AppendNix32(nil, src))
		if want := nixbase32.EncodeToString(src); s != want {
			t.Fatalf("%x: %q, go-nix %q", src, s, want)
		}
		dst := make([]byte, size)
		if n, err := DecodeNix32(dst, s); err != nil || n != size || !bytes.Equal(dst, src) {
			t.Fatalf("decode %q: %x, %d, %v", s, dst, n, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range abc {
		for _, s := range []string{v.hex, v.nix32, v.base64} {
			f.Add(v.algo+":"+s, uint8(0))
			f.Add(v.algo+"-"+s, uint8(0))
			f.Add(s, uint8(SHA256))
		}
	}
	f.Add("sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=?opt", uint8(3))
	f.Fuzz(func(t *testing.T, s string, hint uint8) {
		h, err := Parse(s, Algo(hint))
		if err != nil {
			if !h.IsZero() || !errors.Is(err, ErrBadHash) {
				t.Fatalf("%v with error %v", h, err)
			}
			return
		}
		for _, form := range []string{h.String(), h.SRI(), h.Hex()} {
			if again, err := Parse(form, h.Algo); err != nil || again != h {
				t.Fatalf("%q: %v, %v", form, again, err)
			}
		}
		if theirs, err := gonixhash.ParseAny(s, nil); err == nil && hint == 0 {
			if !bytes.Equal(theirs.Digest(), h.Bytes()) {
				t.Fatalf("%q: go-nix %x, here %x", s, theirs.Digest(), h.Bytes())
			}
		}
	})
}

func BenchmarkNix32(b *testing.B) {
	h := Sum(SHA256, nil)
	b.ReportAllocs()
	for b.Loop() {
		_ = h.Nix32()
	}
}

func BenchmarkParseNix32(b *testing.B) {
	s := Sum(SHA256, nil).String()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(s, 0); err != nil {
			b.Fatal(err)
		}
	}
}
