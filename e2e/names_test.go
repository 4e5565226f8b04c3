package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"testing"
)

const storeDir = "/nix/store"

// nix32 is Nix's base 32.
func nix32(b []byte) string {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	var s []byte
	for n := (len(b)*8+4)/5 - 1; n >= 0; n-- {
		i, j := n*5/8, uint(n*5%8)
		v := int(b[i]) >> j
		if i+1 < len(b) {
			v |= int(b[i+1]) << (8 - j)
		}
		s = append(s, alphabet[v&31])
	}
	return string(s)
}

// sourcePath is the path that a NAR without references has as a source.
func sourcePath(name string, nar []byte) string {
	sum := sha256.Sum256(nar)
	return makePath(fmt.Sprintf("source:sha256:%s:%s:%s", hex.EncodeToString(sum[:]), storeDir, name), name)
}

// anyPath is a path that nothing vouches for.
func anyPath(name string) string { return makePath("e2e:"+name, name) }

func makePath(fingerprint, name string) string {
	sum := sha256.Sum256([]byte(fingerprint))
	var short [20]byte
	for i, b := range sum {
		short[i%20] ^= b
	}
	return storeDir + "/" + nix32(short[:]) + "-" + name
}

// fileConn makes a connection of a descriptor, which it takes over.
func fileConn(t *testing.T, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	must(t, err)
	return c
}

// randomBytes are bytes that no compression and no other test shares.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
