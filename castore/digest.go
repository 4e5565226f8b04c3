package castore

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// DigestSize is the length of a [Digest] in bytes.
const DigestSize = 32

// Digest is a BLAKE3 digest of 256 bits: the name of a blob or directory.
type Digest [DigestSize]byte

// EmptyDigest is the name of the empty blob and of the empty directory, whose
// encoding is empty too.
var EmptyDigest = Sum(nil)

const digestPrefix = "blake3-"

// String returns the digest as "blake3-" and padded base64, as tvix and snix
// show it.
func (d Digest) String() string {
	return digestPrefix + base64.StdEncoding.EncodeToString(d[:])
}

// Hex returns the digest in lower-case base16, without a prefix.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// IsZero tells whether the digest is the zero value, which names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// Compare orders digests by their bytes.
func (d Digest) Compare(other Digest) int { return bytes.Compare(d[:], other[:]) }

// ParseDigest reads the forms of [Digest.String] and [Digest.Hex].
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if rest, ok := strings.CutPrefix(s, digestPrefix); ok {
		// A 32-byte digest takes 44 characters: refuse others before decoding.
		if len(rest) != base64.StdEncoding.EncodedLen(DigestSize) {
			return Digest{}, fmt.Errorf("parse digest %.80q: %w length", s, ErrInvalid)
		}
		b, err := base64.StdEncoding.Strict().DecodeString(rest)
		if err != nil {
			return Digest{}, fmt.Errorf("parse digest %q: %w: %v", s, ErrInvalid, err)
		}
		return DigestFromBytes(b)
	}
	if len(s) != hex.EncodedLen(DigestSize) {
		return Digest{}, fmt.Errorf("parse digest %.80q: %w length", s, ErrInvalid)
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("parse digest %q: %w: %v", s, ErrInvalid, err)
	}
	return d, nil
}

// DigestFromBytes copies a digest out of exactly [DigestSize] bytes.
func DigestFromBytes(b []byte) (Digest, error) {
	if len(b) != DigestSize {
		return Digest{}, fmt.Errorf("%w digest length %d", ErrInvalid, len(b))
	}
	return Digest(b), nil
}
