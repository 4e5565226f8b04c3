package nixhash

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// ErrBadHash is what every error of this package is, in the sense of errors.Is.
// The text of such an error is Nix's and may be shown to a client as it is.
var ErrBadHash = errors.New("bad hash")

type parseError string

func (e parseError) Error() string        { return string(e) }
func (e parseError) Is(target error) bool { return target == ErrBadHash }

func badHash(format string, args ...any) error {
	return parseError(fmt.Sprintf(format, args...))
}

// Hash is an algorithm with a digest of its size. It is a value that can be
// compared with == and used as a map key; the zero value is no hash.
type Hash struct {
	// Algo says how long the digest is. Setting it by hand makes no valid hash.
	Algo   Algo
	digest [maxSize]byte
}

// FromBytes makes a Hash of a raw digest, which is copied. It fails when the
// digest does not have the algorithm's size.
func FromBytes(a Algo, digest []byte) (Hash, error) {
	if !a.valid() || len(digest) != a.Size() {
		return Hash{}, badHash("hash of %d bytes has wrong length for hash algorithm '%s'", len(digest), a)
	}
	h := Hash{Algo: a}
	copy(h.digest[:], digest)
	return h, nil
}

// Sum hashes data.
func Sum(a Algo, data []byte) Hash {
	w := a.New()
	w.Write(data)
	return Finish(a, w)
}

// Finish takes the digest out of w, which must have come from a.New().
func Finish(a Algo, w hash.Hash) Hash {
	h := Hash{Algo: a}
	w.Sum(h.digest[:0])
	return h
}

// IsZero reports whether h is no hash.
func (h Hash) IsZero() bool { return h.Algo == 0 }

// Bytes is a copy of the raw digest.
func (h Hash) Bytes() []byte { return bytes.Clone(h.digest[:h.Algo.Size()]) }

// Base16 is the digest in lower-case hexadecimal, without a prefix.
func (h Hash) Base16() string { return hex.EncodeToString(h.digest[:h.Algo.Size()]) }

// Nix32 is the digest in Nix's base 32, without a prefix.
func (h Hash) Nix32() string { return EncodeNix32(h.digest[:h.Algo.Size()]) }

// Base64 is the digest in padded standard base64, without a prefix.
func (h Hash) Base64() string { return base64.StdEncoding.EncodeToString(h.digest[:h.Algo.Size()]) }

// SRI is "sha256-" and the digest in base64, or "" for no hash.
func (h Hash) SRI() string { return h.prefixed("-", h.Base64()) }

// Hex is "sha256:" and the digest in hexadecimal, or "" for no hash.
// This form is hashed when Nix makes store paths.
func (h Hash) Hex() string { return h.prefixed(":", h.Base16()) }

// String is "sha256:" and the digest in nix32, or "" for no hash.
func (h Hash) String() string { return h.prefixed(":", h.Nix32()) }

func (h Hash) prefixed(sep, digest string) string {
	if h.IsZero() {
		return ""
	}
	return h.Algo.String() + sep + digest
}

// Compare orders hashes as Nix does: by size, digest, algorithm.
func (h Hash) Compare(o Hash) int {
	return cmp.Or(
		cmp.Compare(h.Algo.Size(), o.Algo.Size()),
		bytes.Compare(h.digest[:], o.digest[:]),
		cmp.Compare(h.Algo, o.Algo),
	)
}

// Parse reads a hash in any of the forms in the package's description. Without
// a prefix the algorithm must be given as hint; with both they must agree. A
// hint of 0 is none.
func Parse(s string, hint Algo) (Hash, error) {
	rest, sri := s, false
	algo := hint
	prefix, after, found := strings.Cut(s, ":")
	if !found {
		prefix, after, found = strings.Cut(s, "-")
		sri = found
	}
	if found {
		parsed, err := ParseAlgo(prefix)
		if err != nil {
			return Hash{}, err
		}
		if hint != 0 && hint != parsed {
			return Hash{}, badHash("hash '%s' should have type '%s'", s, hint)
		}
		algo, rest = parsed, after
	}
	if !algo.valid() {
		return Hash{}, badHash("hash '%s' does not include a type, nor is the type otherwise known from context", s)
	}
	if sri {
		return decode(rest, algo, "SRI", decodeBase64)
	}
	return ParseDigest(rest, algo)
}

// ParseDigest reads a digest that has no prefix. The length tells which of
// base16, nix32 and base64 it is.
func ParseDigest(s string, a Algo) (Hash, error) {
	size := a.Size()
	switch {
	case size == 0:
		return Hash{}, badHash("hash '%s' does not include a type, nor is the type otherwise known from context", s)
	case len(s) == hex.EncodedLen(size):
		return decode(s, a, "base16", decodeBase16)
	case len(s) == Nix32Len(size):
		return decode(s, a, "nix32", DecodeNix32)
	case len(s) == base64.StdEncoding.EncodedLen(size):
		return decode(s, a, "Base64", decodeBase64)
	}
	return Hash{}, badHash("hash '%s' has wrong length for hash algorithm '%s'", s, a)
}

func decode(s string, a Algo, format string, dec func(dst []byte, s string) (int, error)) (Hash, error) {
	h := Hash{Algo: a}
	n, err := dec(h.digest[:a.Size()], s)
	if err != nil {
		return Hash{}, badHash("while decoding hash '%s': %v", s, err)
	}
	if n != a.Size() {
		return Hash{}, badHash("invalid %s hash '%s', length %d != expected length %d", format, s, n, a.Size())
	}
	return h, nil
}

func decodeBase16(dst []byte, s string) (int, error) {
	for i := range len(s) / 2 {
		hi, lo := hexDigit(s[2*i]), hexDigit(s[2*i+1])
		if hi > 15 || lo > 15 {
			return 0, badHash("invalid character in Base16 string")
		}
		dst[i] = hi<<4 | lo
	}
	return len(s) / 2, nil
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// decodeBase64 is as lenient as Nix: it ends at the first '=', skips line ends
// and drops bits that fill no byte. Bytes past dst are counted, not kept.
func decodeBase64(dst []byte, s string) (int, error) {
	var acc, bits, n uint
	for i := range len(s) {
		c := s[i]
		if c == '=' {
			break
		}
		if c == '\n' {
			continue
		}
		v := strings.IndexByte(base64Chars, c)
		if v < 0 {
			return 0, badHash("invalid character in Base64 string: '%c'", c)
		}
		acc, bits = acc<<6|uint(v), bits+6
		if bits >= 8 {
			bits -= 8
			if n < uint(len(dst)) {
				dst[n] = byte(acc >> bits)
			}
			n++
		}
	}
	return int(n), nil
}

const base64Chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
