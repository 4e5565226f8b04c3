package refscan_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/store/refscan"
	"github.com/tvixd/tvixd/storepath"
)

func path(i int) storepath.Path {
	sum := sha256.Sum256(fmt.Append(nil, i))
	p, err := storepath.New([20]byte(sum[:20]), fmt.Sprintf("p%d", i))
	if err != nil {
		panic(err)
	}
	return p
}

// scan scans data in writes of n bytes.
func scan(data []byte, n int, candidates ...storepath.Path) []storepath.Path {
	s := refscan.NewScanner(candidates)
	for part := range slices.Chunk(data, n) {
		s.Write(part)
	}
	return s.Found()
}

func TestScanner(t *testing.T) {
	a, b, c := path(1), path(2), path(3)
	twin, err := storepath.New(a.Digest(), "twin")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		data string
		want []storepath.Path
	}{
		{"nothing", "", nil},
		{"short", a.HashPart()[:31], nil},
		{"alone", a.HashPart(), []storepath.Path{a}},
		{"twice", a.HashPart() + a.HashPart(), []storepath.Path{a}},
		{"side by side", a.HashPart() + b.HashPart(), []storepath.Path{a, b}},
		{"in a run", "0123" + b.HashPart() + "zzzz", []storepath.Path{b}},
		{"in a long run", strings.Repeat("a", 1000) + b.HashPart() + strings.Repeat("z", 1000), []storepath.Path{b}},
		{"broken", a.HashPart()[:16] + "-" + a.HashPart()[16:], nil},
		{"one character off", "0" + a.HashPart()[1:], nil},
		{"upper case", strings.ToUpper(a.HashPart()), nil},
		{"a path", "PATH=/nix/store/" + c.Base() + "/bin:/bin", []storepath.Path{c}},
		{"all", c.Base() + "\x00" + b.Base() + "\xff" + a.Base(), []storepath.Path{a, b, c}},
		{"in the midst", strings.Repeat("\x00", 99) + a.HashPart() + strings.Repeat("\x00", 99), []storepath.Path{a}},
		{"not wanted", path(4).HashPart(), nil},
	}
	for _, tt := range tests {
		want := slices.Clone(tt.want)
		storepath.Sort(want)
		for _, n := range []int{1, 2, 7, 30, 31, 32, 33, 62, 63, 64, 65, 4096} {
			if got := scan([]byte(tt.data), n, a, b, c); !slices.Equal(got, want) {
				t.Errorf("%s, writes of %d: got %v, want %v", tt.name, n, got, want)
			}
		}
	}
	if got := scan([]byte(a.HashPart()), 64, a, twin, a); len(got) != 2 {
		t.Errorf("paths of one hash part: got %v", got)
	}
	if got := scan([]byte(a.HashPart()), 64); got != nil {
		t.Errorf("no candidates: got %v", got)
	}
}

// FuzzScanner compares with a plain search, whatever the sizes of the writes.
func FuzzScanner(f *testing.F) {
	f.Add([]byte("abc"), uint16(3), uint16(0), uint16(100))
	f.Add([]byte(strings.Repeat("0", 70)), uint16(33), uint16(1), uint16(31))
	f.Fuzz(func(t *testing.T, data []byte, n, at, at2 uint16) {
		a, b := path(1), path(2)
		// Random data holds no hash part: put some in.
		for p, i := range map[storepath.Path]int{a: int(at), b: int(at2)} {
			if i < len(data) {
				copy(data[i:], p.HashPart())
			}
		}
		var want []storepath.Path
		for _, p := range []storepath.Path{a, b} {
			if bytes.Contains(data, []byte(p.HashPart())) {
				want = append(want, p)
			}
		}
		storepath.Sort(want)
		if got := scan(data, int(n)+1, a, b); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}

		rewrites := map[string]string{a.HashPart(): strings.Repeat("A", 32), b.HashPart(): strings.Repeat("B", 32)}
		var rewritten bytes.Buffer
		rewrite(t, &rewritten, rewrites, data, int(n)+1)
		var whole bytes.Buffer
		rewrite(t, &whole, rewrites, data, len(data)+1)
		if !bytes.Equal(rewritten.Bytes(), whole.Bytes()) {
			t.Error("the rewriting depends on the sizes of the writes")
		}
	})
}

func rewrite(t testing.TB, dst io.Writer, rewrites map[string]string, data []byte, n int) {
	t.Helper()
	w, err := refscan.NewRewriter(dst, rewrites)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(data, n) {
		if k, err := w.Write(part); k != len(part) || err != nil {
			t.Fatalf("Write: %d, %v", k, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRewriter(t *testing.T) {
	a, b := path(1), path(2)
	x, y := strings.Repeat("x", 32), strings.Repeat("y", 32)
	tests := map[string]string{
		"":                              "",
		"abc":                           "abc",
		a.HashPart():                    x,
		a.HashPart() + b.HashPart():     x + y,
		a.HashPart()[:31] + "-":         a.HashPart()[:31] + "-",
		"00" + a.HashPart() + "11":      "00" + x + "11",
		"/nix/store/" + b.Base() + "/x": "/nix/store/" + y + b.Base()[32:] + "/x",
		strings.Repeat("0", 200_000) + a.HashPart() + strings.Repeat("1", 31): strings.Repeat("0", 200_000) + x + strings.Repeat("1", 31),
	}
	for in, want := range tests {
		for _, n := range []int{1, 31, 32, 33, 1 << 20} {
			if len(in) > 1000 && n == 1 {
				continue
			}
			var got bytes.Buffer
			rewrite(t, &got, map[string]string{a.HashPart(): x, b.HashPart(): y}, []byte(in), n)
			if got.String() != want {
				t.Errorf("writes of %d: %.100q becomes %.100q, want %.100q", n, in, got.String(), want)
			}
		}
	}
	if _, err := refscan.NewRewriter(io.Discard, map[string]string{"short": x}); err == nil {
		t.Error("short hash part accepted")
	}
	w, err := refscan.NewRewriter(failingWriter{}, map[string]string{a.HashPart(): x})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 100)); err == nil {
		t.Error("error of the destination is lost")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestHashModulo(t *testing.T) {
	self := path(1)
	zeros := strings.Repeat("\x00", 32)
	text := func(part string) string { return "begin " + part + "-p1 middle " + part + " end" }
	h := refscan.NewHashModulo(nixhash.SHA256, self)
	for part := range slices.Chunk([]byte(text(self.HashPart())), 5) {
		h.Write(part)
	}
	sum, legacy := h.Sum()
	if want := nixhash.Sum(nixhash.SHA256, []byte(text(zeros))); sum != want {
		t.Errorf("got %v, want %v", sum, want)
	}
	if want := nixhash.Sum(nixhash.SHA256, []byte(text(zeros)+"|6|49")); legacy != want {
		t.Errorf("legacy %v, want %v", legacy, want)
	}
	h = refscan.NewHashModulo(nixhash.SHA1, self)
	io.WriteString(h, "x")
	if sum, legacy := h.Sum(); sum != legacy || sum != nixhash.Sum(nixhash.SHA1, []byte("x")) {
		t.Errorf("got %v and %v", sum, legacy)
	}
}

func BenchmarkScanner(b *testing.B) {
	const size = 4 << 20
	r := rand.New(rand.NewPCG(1, 2))
	inputs := map[string][]byte{
		"zeros":  make([]byte, size),
		"random": make([]byte, size),
		"text":   bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog, int main(void) { return 0; }\n"), size/74),
		"base32": make([]byte, size),
	}
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	for i := range size {
		inputs["random"][i] = byte(r.Uint32())
		inputs["base32"][i] = alphabet[r.IntN(32)]
	}
	for _, n := range []int{100, 10_000} {
		candidates := make([]storepath.Path, n)
		for i := range candidates {
			candidates[i] = path(i)
		}
		for _, name := range []string{"zeros", "random", "text", "base32"} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.SetBytes(size)
				s := refscan.NewScanner(candidates)
				for b.Loop() {
					for part := range slices.Chunk(inputs[name], 128<<10) {
						s.Write(part)
					}
				}
			})
		}
	}
}
