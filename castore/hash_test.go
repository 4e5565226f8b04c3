package castore

import (
	"bytes"
	"fmt"
	"testing"

	small "github.com/zeebo/blake3"
	large "lukechampine.com/blake3"
)

// TestSum compares both libraries, and the streaming hasher, over lengths around
// those at which BLAKE3 and the choice of library change.
func TestSum(t *testing.T) {
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i % 251)
	}
	for _, n := range []int{0, 1, 63, 64, 65, 1023, 1024, 1025, 8192, 16384, 16385, 65535, 65536, 65537, 131073, 300_000} {
		in := data[:n]
		want := Digest(large.Sum256(in))
		h := NewHasher()
		for rest := in; len(rest) > 0; {
			m := min(len(rest), 1000+len(rest)/3)
			h.Write(rest[:m])
			rest = rest[m:]
		}
		if got := Sum(in); got != want || small.Sum256(in) != want || !bytes.Equal(h.Sum(nil), want[:]) {
			t.Errorf("the ways to hash %d bytes disagree", n)
		}
	}
	// The first bytes of the official test vector for 1 byte of input.
	if got := Sum(data[:1]).Hex(); got[:16] != "2d3adedff11b61f1" {
		t.Errorf("digest of a zero byte is %s", got)
	}
}

// BenchmarkSum measures both libraries by size; largeInput comes from it.
func BenchmarkSum(b *testing.B) {
	for _, n := range []int{64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		data := make([]byte, n)
		for name, sum := range map[string]func([]byte) [32]byte{"large": large.Sum256, "small": small.Sum256} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					sum(data)
				}
			})
		}
	}
}
