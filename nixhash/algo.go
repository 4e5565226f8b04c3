// Package nixhash names byte strings as Nix does: a hash algorithm and a
// digest, written in one of four ways.
//
//	sha256:ba7816bf…          base16, 2 characters a byte
//	sha256:1b8m03r63zqh…      nix32, Nix's own base 32: 5 bits a character, last bits first
//	sha256:ungWv48Bz+pBQ…=    base64
//	sha256-ungWv48Bz+pBQ…=    SRI, base64 after a dash
//
// Without the prefix the first three are told apart by their length, which is
// different for every algorithm. Parsing is exactly as lenient as Nix's.
package nixhash

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"

	"lukechampine.com/blake3"
)

// Algo is a hash algorithm. The zero value is none: it has size 0 and the name "".
type Algo uint8

// The algorithms that Nix knows.
const (
	MD5 Algo = iota + 1
	SHA1
	SHA256
	SHA512
	BLAKE3
)

// maxSize is the size of the longest digest, SHA-512's.
const maxSize = sha512.Size

var algos = [...]struct {
	name string
	size int
}{
	MD5:    {"md5", md5.Size},
	SHA1:   {"sha1", sha1.Size},
	SHA256: {"sha256", sha256.Size},
	SHA512: {"sha512", sha512.Size},
	BLAKE3: {"blake3", 32},
}

// ParseAlgo reads an algorithm's name, "sha256" for example. Names are lower case.
func ParseAlgo(name string) (Algo, error) {
	for a := MD5; a <= BLAKE3; a++ {
		if algos[a].name == name {
			return a, nil
		}
	}
	return 0, badHash("unknown hash algorithm '%s', expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'", name)
}

// String is the name that Nix uses, or "" for none.
func (a Algo) String() string {
	if !a.valid() {
		return ""
	}
	return algos[a].name
}

// Size is the length of a digest in bytes, or 0 for none.
func (a Algo) Size() int {
	if !a.valid() {
		return 0
	}
	return algos[a].size
}

// New starts a computation. It panics for a value that is not one of the constants.
func (a Algo) New() hash.Hash {
	switch a {
	case MD5:
		return md5.New()
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA512:
		return sha512.New()
	case BLAKE3:
		return blake3.New(32, nil)
	}
	panic("nixhash: New of no algorithm")
}

func (a Algo) valid() bool { return a >= MD5 && a <= BLAKE3 }
