package daemon

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// curl is a path of cache.nixos.org with its real signature.
func curl(t *testing.T) *pathinfo.PathInfo {
	t.Helper()
	parse := func(base string) storepath.Path {
		p, err := storepath.ParseBase(base)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	hash, err := nixhash.Parse("sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0", 0)
	if err != nil {
		t.Fatal(err)
	}
	return &pathinfo.PathInfo{
		Path:    parse("syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin"),
		NarHash: hash,
		NarSize: 196040,
		References: []storepath.Path{
			parse("0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0"), parse("6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115"),
			parse("j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12"), parse("yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n"),
		},
		Signatures: []string{"cache.nixos.org-1:TsTTb3WGTZKphvYdBHXwo6weVILmTytUjLB+vcX89fOjjRicCHmKA4RCPMVLkj6TMJ4GMX3HPVWRdD1hkeKZBQ=="},
	}
}

const nixosKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

func TestKeyring(t *testing.T) {
	info := curl(t)
	keys, bad := parseKeyring([]string{"junk", nixosKey, "x:AAAA"})
	if len(keys) != 1 || len(bad) != 2 {
		t.Fatalf("%d keys, bad ones %q", len(keys), bad)
	}
	print := fingerprint(storepath.DefaultDir, info)
	if !keys.accepts(print, append([]string{"junk", "cache.nixos.org-1:AAAA"}, info.Signatures...)) {
		t.Error("a real signature is refused")
	}
	for what, sigs := range map[string][]string{
		"none": nil, "junk": {"junk"}, "another name": {"cache.nixos.org-2" + info.Signatures[0][len("cache.nixos.org-1"):]},
	} {
		if keys.accepts(print, sigs) {
			t.Errorf("%s: accepted", what)
		}
	}
	info.NarSize++
	if keys.accepts(fingerprint(storepath.DefaultDir, info), info.Signatures) {
		t.Error("the signature of something else is accepted")
	}
	if (keyring{}).accepts(print, info.Signatures) {
		t.Error("accepted without any key")
	}

	secret, public, err := signature.GenerateKeypair("mine", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := secret.Sign(rand.Reader, print)
	if err != nil {
		t.Fatal(err)
	}
	if !(keyring{public}).accepts(print, []string{sig.String()}) {
		t.Error("a fresh signature is refused")
	}
}

func TestSigner(t *testing.T) {
	secret, public, err := signature.GenerateKeypair("ours", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, junk := filepath.Join(dir, "key"), filepath.Join(dir, "junk")
	for name, text := range map[string]string{file: secret.String() + "\n", junk: "junk"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := LoadSigner(storepath.DefaultDir, []string{file})
	if err != nil {
		t.Fatal(err)
	}
	info := curl(t)
	s.Sign(info)
	if len(info.Signatures) != 2 || !(keyring{public}).accepts(fingerprint(storepath.DefaultDir, info), info.Signatures) {
		t.Errorf("signatures %q", info.Signatures)
	}
	if !s.public().accepts(fingerprint(storepath.DefaultDir, info), info.Signatures) {
		t.Error("it does not know its own signature")
	}
	for _, name := range []string{junk, filepath.Join(dir, "absent")} {
		if _, err := LoadSigner(storepath.DefaultDir, []string{file, name}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	none, err := LoadSigner(storepath.DefaultDir, nil)
	if err != nil || none != nil {
		t.Errorf("without files: %v, %v", none, err)
	}
	before := len(info.Signatures)
	none.Sign(info)
	if len(info.Signatures) != before || none.public() != nil {
		t.Error("no signer signs")
	}
}
