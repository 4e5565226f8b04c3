package daemon

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Signer signs what is built here. A nil one signs nothing.
type Signer struct {
	dir  storepath.Dir
	keys []signature.SecretKey
}

// maxKeyFile is far more than a key needs.
const maxKeyFile = 4 << 10

// LoadSigner reads secret keys, one a file; without files the result is nil.
func LoadSigner(dir storepath.Dir, files []string) (*Signer, error) {
	if len(files) == 0 {
		return nil, nil
	}
	s := &Signer{dir: dir}
	for _, name := range files {
		key, err := loadSecretKey(name)
		if err != nil {
			return nil, fmt.Errorf("load secret key '%s': %w", name, err)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

func loadSecretKey(name string) (signature.SecretKey, error) {
	f, err := os.Open(name)
	if err != nil {
		return signature.SecretKey{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return signature.SecretKey{}, err
	}
	return signature.LoadSecretKey(strings.TrimSpace(string(text)))
}

// Sign adds a signature by each key to a path whose other metadata is complete.
func (s *Signer) Sign(info *pathinfo.PathInfo) {
	if s == nil {
		return
	}
	info.Normalise()
	text := fingerprint(s.dir, info)
	var signatures []string
	for _, key := range s.keys {
		sig, err := key.Sign(rand.Reader, text)
		if err != nil { // ed25519 does not fail
			panic(err)
		}
		signatures = append(signatures, sig.String())
	}
	info.Signatures = pathinfo.MergeSignatures(info.Signatures, signatures)
}

// public are the keys by which its signatures are recognised.
func (s *Signer) public() keyring {
	if s == nil {
		return nil
	}
	var keys keyring
	for _, key := range s.keys {
		keys = append(keys, key.ToPublicKey())
	}
	return keys
}
