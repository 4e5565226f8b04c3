package castore

import (
	"hash"

	"golang.org/x/sys/cpu"
	large "lukechampine.com/blake3"

	small "github.com/zeebo/blake3"
)

// largeInput is the size in bytes from which the library for large inputs is
// the faster one, on processors where it is faster at all (hasWide).
// BenchmarkSum measures both libraries around it.
const largeInput = 64 << 10

// hasWide tells whether the library for large inputs has its fast code here: it
// needs AVX-512. With less, the other library is the faster one at every size.
var hasWide = cpu.X86.HasAVX512F

// Sum returns the BLAKE3 digest of data. It picks the faster of two BLAKE3
// implementations by the length of the input and the processor.
func Sum(data []byte) Digest {
	if hasWide && len(data) >= largeInput {
		return large.Sum256(data)
	}
	return small.Sum256(data)
}

// NewHasher returns a streaming BLAKE3 hasher of [DigestSize] bytes for long
// inputs. Write never fails.
func NewHasher() hash.Hash {
	if hasWide {
		return large.New(DigestSize, nil)
	}
	return small.New()
}
