package derivation

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/storepath"
)

// The expression has every kind of derivation that the oldest supported Nix can make.
const expression = `
let
  drv = args: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // args);
  source = drv { name = "source"; outputHashMode = "recursive"; outputHashAlgo = "sha256";
    outputHash = "0000000000000000000000000000000000000000000000000000000000000000"; url = "first"; };
  mirror = drv { name = "source"; outputHashMode = "recursive"; outputHashAlgo = "sha256";
    outputHash = "0000000000000000000000000000000000000000000000000000000000000000"; url = "second"; };
  flat = drv { name = "flat"; outputHashAlgo = "sha1"; outputHash = "da39a3ee5e6b4b0d3255bfef95601890afd80709"; };
  lib = drv { name = "lib"; outputs = [ "out" "dev" "a" ]; inherit source flat; };
  lib2 = drv { name = "lib"; outputs = [ "out" "dev" "a" ]; source = mirror; inherit flat; };
  text = builtins.toFile "text" "some \"text\"\n";
  app = drv { name = "app-1.0"; args = [ "-c" "echo \"$x\" \\ \n\t\r ä $" text ]; inherit lib; dev = lib2.dev; };
  both = drv { name = "both"; x = [ lib.out lib2.dev lib2.a ]; };
  graph = drv { name = "graph"; exportReferencesGraph = [ "g" app.drvPath ]; };
  attrs = drv { name = "attrs"; __structuredAttrs = true; x.y = [ 1 2.5 "ä\"\n" null true ]; inherit lib; };
  floating = drv { name = "floating"; __contentAddressed = true; outputs = [ "out" "dev" ];
    outputHashMode = "recursive"; outputHashAlgo = "sha256"; inherit lib; };
  deferred = drv { name = "deferred"; inherit floating lib; };
in [ app both graph attrs floating deferred ]
`

// TestLikeNix has Nix make derivations, and compares texts, paths and outputs.
func TestLikeNix(t *testing.T) {
	root := t.TempDir()
	storeDir := instantiate(t, root)
	dir, err := storepath.NewDir(storeDir)
	if err != nil {
		t.Fatal(err)
	}
	resolve := func(p storepath.Path) (*Derivation, error) {
		text, err := os.ReadFile(dir.Join(p))
		if err != nil {
			return nil, err
		}
		name, err := NameFromPath(p)
		if err != nil {
			return nil, err
		}
		return Parse(dir, name, text)
	}
	drvs, err := filepath.Glob(filepath.Join(storeDir, "*.drv"))
	if err != nil || len(drvs) < 11 {
		t.Fatalf("%d derivations, %v", len(drvs), err)
	}
	h := NewHasher(dir)
	kinds := map[Kind]int{}
	for _, full := range drvs {
		p, err := dir.Parse(full)
		if err != nil {
			t.Fatal(err)
		}
		d, err := resolve(p)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(full); err != nil || !bytes.Equal(d.Format(dir), text) {
			t.Errorf("%s: formatted\n%s, want\n%s", p, d.Format(dir), text)
		}
		if got, err := d.Path(dir); err != nil || got != p {
			t.Errorf("%s: path %s, %v", p, got, err)
		}
		if err := h.Check(d, p, resolve); err != nil {
			t.Error(err)
		}
		kind, err := d.Type()
		if err != nil {
			t.Error(err)
		}
		kinds[kind]++
		if attrs, ok := d.StructuredAttrs(); ok && !json.Valid(attrs) {
			t.Errorf("%s: attributes %s", p, attrs)
		}
	}
	for _, kind := range []Kind{InputAddressed, Fixed, Floating, Deferred} {
		if kinds[kind] == 0 {
			t.Errorf("Nix made no derivation that is %v", kind)
		}
	}
}

// instantiate lets Nix write derivations into a store below root.
func instantiate(t *testing.T, root string) (storeDir string) {
	t.Helper()
	program, err := exec.LookPath("nix-instantiate")
	if err != nil {
		t.Skip("nix-instantiate is not installed")
	}
	root, err = filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	storeDir = filepath.Join(root, "store")
	cmd := exec.Command(program, "--option", "experimental-features", "ca-derivations", "-E", expression)
	cmd.Env = append(os.Environ(),
		"HOME="+root, "NIX_REMOTE=", "NIX_STORE_DIR="+storeDir, "NIX_STATE_DIR="+root+"/var", "NIX_LOG_DIR="+root+"/log",
		"NIX_CONF_DIR="+root+"/etc", "NIX_LOCALSTATE_DIR="+root+"/var", "NIX_DATA_DIR="+root+"/data", "NIX_CONFIG=build-users-group =")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("nix-instantiate does not run here: %v\n%s", err, strings.TrimSpace(string(out)))
	}
	return storeDir
}
