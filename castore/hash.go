package castore

import (
	"hash"

	large "lukechampine.com/blake3"

	small "github.com/zeebo/blake3"
)

// smallInput is the size in bytes below which the second BLAKE3 library is the
// faster one. BenchmarkSum in castoretest measures both around it.
const smallInput = 32 << 10

// Sum returns the BLAKE3 digest of data. It picks the faster of two BLAKE3
// implementations by the length of the input.
func Sum(data []byte) Digest {
	if len(data) < smallInput {
		return small.Sum256(data)
	}
	return large.Sum256(data)
}

// NewHasher returns a streaming BLAKE3 hasher of [DigestSize] bytes for long
// inputs. Write never fails.
func NewHasher() hash.Hash { return large.New(DigestSize, nil) }
