package store_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/store/refscan"
	"github.com/tvixd/tvixd/storepath"
)

func TestAddCA(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<17) // streamed
	dir := events(t, nar.Header{Kind: nar.Directory},
		nar.Header{Name: "f", Kind: nar.Regular, Size: 1}, "x", nar.Header{Kind: nar.EndDirectory})
	tests := []struct {
		name   string
		method storepath.Method
		algo   nixhash.Algo
		input  string
		hashed string // what the content address is the hash of
		dump   []byte // how it must render
	}{
		{"flat", storepath.Flat, nixhash.SHA256, "hello", "hello", file(t, "hello")},
		{"empty", storepath.Flat, nixhash.SHA256, "", "", file(t, "")},
		{"flat, sha512", storepath.Flat, nixhash.SHA512, "hello", "hello", file(t, "hello")},
		{"flat, large", storepath.Flat, nixhash.SHA1, large, large, file(t, large)},
		{"text", storepath.Text, nixhash.SHA256, "hello", "hello", file(t, "hello")},
		{"NAR", storepath.NAR, nixhash.SHA256, string(dir), string(dir), dir},
		{"NAR, md5", storepath.NAR, nixhash.MD5, string(dir), string(dir), dir},
		{"git", storepath.Git, nixhash.SHA1, string(file(t, "hello")), "blob 5\x00hello", file(t, "hello")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			for range 2 { // the second time it is valid
				info, err := s.AddCA(t.Context(), "name", tt.method, tt.algo, nil, strings.NewReader(tt.input), store.AddOptions{})
				if err != nil {
					t.Fatal(err)
				}
				want := storepath.ContentAddress{Method: tt.method, Hash: nixhash.Sum(tt.algo, []byte(tt.hashed))}
				if info.CA != want {
					t.Errorf("content address %v, want %v", info.CA, want)
				}
				if info.NarHash != nixhash.Sum(nixhash.SHA256, tt.dump) || info.NarSize != uint64(len(tt.dump)) {
					t.Errorf("NAR hash %v, size %d", info.NarHash, info.NarSize)
				}
				if !s.IsContentAddressed(info) {
					t.Error("path does not follow from the content address")
				}
				checkNAR(t, s, info.Path, tt.dump)
			}
		})
	}
}

func TestAddCAFromNAR(t *testing.T) {
	s := newStore(t)
	info, err := s.AddCAFromNAR(t.Context(), "n", storepath.Flat, nixhash.SHA256, nil, bytes.NewReader(file(t, "x")), store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same, err := s.AddCA(t.Context(), "n", storepath.Flat, nixhash.SHA256, nil, strings.NewReader("x"), store.AddOptions{Repair: true})
	if err != nil || same.Path != info.Path {
		t.Errorf("paths %v and %v, error %v", info.Path, same, err)
	}
	for name, dump := range map[string][]byte{
		"directory":  events(t, nar.Header{Kind: nar.Directory}, nar.Header{Kind: nar.EndDirectory}),
		"executable": events(t, nar.Header{Kind: nar.Regular, Executable: true}),
		"link":       events(t, nar.Header{Kind: nar.Symlink, Target: "x"}),
	} {
		_, err := s.AddCAFromNAR(t.Context(), "n", storepath.Flat, nixhash.SHA256, nil, bytes.NewReader(dump), store.AddOptions{})
		if err == nil || !strings.Contains(err.Error(), "should be a non-executable regular file") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestAddCARefused(t *testing.T) {
	s := newStore(t)
	for name, add := range map[string]func() (*pathinfo.PathInfo, error){
		"bad name": func() (*pathinfo.PathInfo, error) {
			return s.AddCA(t.Context(), "a/b", storepath.Flat, nixhash.SHA256, nil, strings.NewReader("x"), store.AddOptions{})
		},
		"no method": func() (*pathinfo.PathInfo, error) {
			return s.AddCA(t.Context(), "n", 0, nixhash.SHA256, nil, strings.NewReader("x"), store.AddOptions{})
		},
		"no algorithm": func() (*pathinfo.PathInfo, error) {
			return s.AddCA(t.Context(), "n", storepath.Flat, 0, nil, strings.NewReader("x"), store.AddOptions{})
		},
		"text with sha1": func() (*pathinfo.PathInfo, error) {
			return s.AddCA(t.Context(), "n", storepath.Text, nixhash.SHA1, nil, strings.NewReader("x"), store.AddOptions{})
		},
		"flat with references": func() (*pathinfo.PathInfo, error) {
			return s.AddCA(t.Context(), "n", storepath.Flat, nixhash.SHA256, []storepath.Path{path("r")}, strings.NewReader("x"), store.AddOptions{})
		},
		"missing reference": func() (*pathinfo.PathInfo, error) {
			return s.AddCA(t.Context(), "n", storepath.Text, nixhash.SHA256, []storepath.Path{path("r")}, strings.NewReader("x"), store.AddOptions{})
		},
		"bad NAR": func() (*pathinfo.PathInfo, error) {
			return s.AddCA(t.Context(), "n", storepath.NAR, nixhash.SHA256, nil, strings.NewReader("x"), store.AddOptions{})
		},
	} {
		if info, err := add(); err == nil {
			t.Errorf("%s: added as %v", name, info)
		}
	}
	if paths, err := s.PathInfo().Paths(t.Context()); err != nil || len(paths) > 0 {
		t.Errorf("paths %v, error %v", paths, err)
	}
}

// TestOtherStoreDir adds a path whose name was made for another store folder.
func TestOtherStoreDir(t *testing.T) {
	s := store.New(store.Options{Dir: "/other/store", Castore: newStore(t).Castore(), PathInfo: newStore(t).PathInfo()})
	dump := file(t, "hello")
	ca := storepath.ContentAddress{Method: storepath.NAR, Hash: nixhash.Sum(nixhash.SHA256, dump)}
	for dir, ok := range map[storepath.Dir]bool{"/nix/store": false, "/other/store": true} {
		p, err := dir.FromContentAddress("p", ca, storepath.References{})
		if err != nil {
			t.Fatal(err)
		}
		info := claim(p, dump)
		info.CA = ca
		err = s.AddNAR(t.Context(), info, bytes.NewReader(dump), store.AddOptions{})
		if (err == nil) != ok {
			t.Errorf("path of %s: error %v", dir, err)
		}
		if err != nil && !strings.Contains(err.Error(), "'/other/store/"+p.Base()+"'") {
			t.Errorf("error %v", err)
		}
	}
}

// TestSelfReference adds contents that refer to themselves, with a hash of
// either form.
func TestSelfReference(t *testing.T) {
	placeholder := path("self")
	dumpFor := func(self storepath.Path) []byte { return file(t, "I am "+self.HashPart()+"-self.") }
	h := refscan.NewHashModulo(nixhash.SHA256, placeholder)
	h.Write(dumpFor(placeholder))
	sum, legacy := h.Sum()
	for name, hash := range map[string]nixhash.Hash{"present": sum, "legacy": legacy} {
		s := newStore(t)
		ca := storepath.ContentAddress{Method: storepath.NAR, Hash: hash}
		self, err := s.Dir().FromContentAddress("self", ca, storepath.References{Self: true})
		if err != nil {
			t.Fatal(err)
		}
		dump := dumpFor(self)
		info := claim(self, dump, self)
		info.CA = ca
		if err := s.AddNAR(t.Context(), info, bytes.NewReader(dump), store.AddOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got, err := s.IngestNAR(t.Context(), bytes.NewReader(dump), store.IngestOptions{
			Candidates: []storepath.Path{path("x"), self},
		})
		if err != nil || len(got.References) != 1 || got.References[0] != self {
			t.Errorf("%s: references %v, error %v", name, got.References, err)
		}
		got.Release()
	}
}

func TestGitHash(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed")
	}
	root := filepath.Join(t.TempDir(), "tree")
	writeTree(t, root, 5, treeSpec{dirs: 5, files: 30, links: 5, maxSmall: 1000})
	// Names whose order is another one with a slash behind.
	for _, d := range []string{"a", "a.b", "a-b"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Git knows no empty directories, and git's tree would lack them.
	err = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.WriteFile(filepath.Join(p, "keep"), nil, 0o644)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(git, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GIT_DIR="+filepath.Join(filepath.Dir(root), "git"), "GIT_WORK_TREE="+root,
			"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("init", "-q")
	run("-c", "core.autocrlf=false", "add", "-A", ".")
	want := run("write-tree")

	s := newStore(t)
	info, err := s.AddCA(t.Context(), "n", storepath.Git, nixhash.SHA1, nil, bytes.NewReader(dumpPath(t, root)), store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := info.CA.Hash.Base16(); got != want {
		t.Errorf("got %s, git says %s", got, want)
	}
}

// simpleDrv returns the text of a derivation with a right output path.
func simpleDrv(t testing.TB, s *store.Store, name string, inputs ...storepath.Path) (text []byte, out storepath.Path) {
	t.Helper()
	d := &derivation.Derivation{
		Name:      name,
		Outputs:   map[string]derivation.Output{"out": {Kind: derivation.Deferred}},
		InputDrvs: map[storepath.Path]derivation.InputOutputs{},
		System:    "x86_64-linux",
		Builder:   "/bin/sh",
		Env:       map[string]string{"name": name, "out": ""},
	}
	for _, p := range inputs {
		d.InputDrvs[p] = derivation.InputOutputs{Outputs: []string{"out"}}
	}
	resolve := func(p storepath.Path) (*derivation.Derivation, error) { return s.ReadDerivation(t.Context(), p) }
	if err := s.Hasher().Fill(d, resolve); err != nil {
		t.Fatal(err)
	}
	return d.Format(s.Dir()), d.Outputs["out"].Path
}

func TestAddText(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	dep, err := s.AddText(ctx, "dep", []byte("dep"), nil, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.AddText(ctx, "text", []byte("see "+s.Dir().Join(dep)), []storepath.Path{dep, dep}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.AddText(ctx, "text", []byte("see "+s.Dir().Join(dep)), []storepath.Path{dep}, store.AddOptions{})
	if err != nil || again != p {
		t.Errorf("added again as %v, error %v", again, err)
	}
	data, err := s.ReadFile(ctx, p, "")
	if err != nil || string(data) != "see "+s.Dir().Join(dep) {
		t.Errorf("contents %q, error %v", data, err)
	}
	_, err = s.AddText(ctx, "text", []byte("x"), []storepath.Path{path("missing")}, store.AddOptions{})
	var invalid *pathinfo.InvalidReferenceError
	if !errors.As(err, &invalid) || err.Error() != "path '/nix/store/"+path("missing").Base()+"' is not valid" {
		t.Errorf("error %v", err)
	}
}

func TestDerivations(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	text, out := simpleDrv(t, s, "first")
	first, err := s.AddText(ctx, "first.drv", text, nil, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := s.PathInfo().DrvOutputs(ctx, first)
	if err != nil || outputs["out"] != out {
		t.Errorf("outputs %v, error %v", outputs, err)
	}
	d, err := s.ReadDerivation(ctx, first)
	if err != nil || d.Outputs["out"].Path != out {
		t.Errorf("derivation %v, error %v", d, err)
	}

	// Whatever the way it comes in, a wrong one is refused.
	bad := map[string][]byte{
		"wrong output": bytes.ReplaceAll(text, []byte(out.HashPart()), []byte(path("x").HashPart())),
		"cut short":    text[:len(text)-1],
		"in a string":  text[:len(text)/2],
		"no term":      []byte("hello"),
		"nothing":      {},
	}
	for name, text := range bad {
		if _, err := s.AddText(ctx, "first.drv", text, nil, store.AddOptions{}); err == nil {
			t.Errorf("%s: added as a text", name)
		}
		if _, err := s.AddCA(ctx, "first.drv", storepath.NAR, nixhash.SHA256, nil, bytes.NewReader(file(t, string(text))), store.AddOptions{}); err == nil {
			t.Errorf("%s: added as a source", name)
		}
		dump := file(t, string(text))
		if err := s.AddNAR(ctx, claim(path("first.drv"), dump), bytes.NewReader(dump), store.AddOptions{}); err == nil {
			t.Errorf("%s: added as a NAR", name)
		}
		b := s.Batch(ctx)
		err := b.AddNAR(ctx, claim(path("first.drv"), dump), bytes.NewReader(dump))
		if err = errors.Join(err, b.Commit()); err == nil {
			t.Errorf("%s: added in a batch", name)
		}
	}
	dir := events(t, nar.Header{Kind: nar.Directory}, nar.Header{Kind: nar.EndDirectory})
	if _, err := s.AddCA(ctx, "d.drv", storepath.NAR, nixhash.SHA256, nil, bytes.NewReader(dir), store.AddOptions{}); err == nil {
		t.Error("a folder is added as a derivation")
	}
	paths, err := s.PathInfo().Paths(ctx)
	if err != nil || len(paths) != 1 {
		t.Errorf("paths %v, error %v", paths, err)
	}
}

// TestDerivationsInBatch registers a chain in one go, the last one first.
func TestDerivationsInBatch(t *testing.T) {
	made := newStore(t)
	ctx := t.Context()
	var chain []storepath.Path
	for i := range 20 {
		text, _ := simpleDrv(t, made, "d"+strings.Repeat("i", i), chain[max(0, i-1):]...)
		p, err := made.AddText(ctx, "d"+strings.Repeat("i", i)+".drv", text, chain[max(0, i-1):], store.AddOptions{})
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, p)
	}
	infos, err := made.PathInfo().GetMany(ctx, chain)
	if err != nil {
		t.Fatal(err)
	}
	s := store.New(store.Options{Castore: made.Castore(), PathInfo: newStore(t).PathInfo()})
	var batch []pathinfo.PathInfo
	for _, info := range infos {
		batch = append([]pathinfo.PathInfo{*info}, batch...)
	}
	if err := s.Register(ctx, batch[:10]); err == nil {
		t.Error("registered without the inputs")
	}
	if err := s.Register(ctx, batch); err != nil {
		t.Fatal(err)
	}
	for _, p := range chain {
		outputs, err := s.PathInfo().DrvOutputs(ctx, p)
		if err != nil || len(outputs) != 1 {
			t.Errorf("outputs %v, error %v", outputs, err)
		}
	}
}
