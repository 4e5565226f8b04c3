package daemon

import (
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// A keyring is a set of keys whose signatures are believed.
type keyring []signature.PublicKey

// parseKeyring reads "name:base64" keys. Those that are no keys are left out and returned.
func parseKeyring(texts []string) (keys keyring, bad []string) {
	for _, text := range texts {
		key, err := signature.ParsePublicKey(text)
		if err != nil {
			bad = append(bad, text)
			continue
		}
		keys = append(keys, key)
	}
	return keys, bad
}

// accepts reports whether one of the signatures of a text is by one of the keys.
func (k keyring) accepts(fingerprint string, signatures []string) bool {
	for _, text := range signatures {
		sig, err := signature.ParseSignature(text)
		if err != nil {
			continue
		}
		for _, key := range k {
			if key.Verify(fingerprint, sig) { // false for another name
				return true
			}
		}
	}
	return false
}

// fingerprint is what the signatures of a path are made of. The references must be sorted.
func fingerprint(dir storepath.Dir, info *pathinfo.PathInfo) string {
	var b strings.Builder
	b.WriteString("1;" + dir.Join(info.Path) + ";" + info.NarHash.String() + ";" + strconv.FormatUint(info.NarSize, 10) + ";")
	for i, ref := range info.References {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(dir.Join(ref))
	}
	return b.String()
}
