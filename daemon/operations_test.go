package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// versions are those at which something changes.
var versions = []uint8{18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 29, 30, 31, 32, 34, 35, 36, 37, 38}

func TestEveryVersion(t *testing.T) {
	for _, minor := range versions {
		t.Run(fmt.Sprintf("1.%d", minor), func(t *testing.T) {
			d := newDaemon(t, setup{})
			c := d.dial(t, wp.MakeVersion(1, minor))
			if minor >= 33 && c.Info().DaemonVersion != "tvixd test" {
				t.Errorf("daemon version %q", c.Info().DaemonVersion)
			}
			if minor >= 35 && c.Info().Trust != wp.Trusted {
				t.Errorf("trust %v", c.Info().Trust)
			}
			t.Run("adds", func(t *testing.T) { testAdds(t, d, c) })
			t.Run("queries", func(t *testing.T) { testQueries(t, d, c) })
			t.Run("roots", func(t *testing.T) { testRoots(t, d, c) })
			t.Run("maintenance", func(t *testing.T) { testMaintenance(t, d, c) })
			t.Run("collection", func(t *testing.T) { testCollection(t, d, c) })
		})
	}
}

func testAdds(t *testing.T, d *testDaemon, c *wp.Client) {
	ctx := t.Context()
	text, err := c.AddToStore(ctx, wp.AddToStoreRequest{Name: "text", Method: storepath.Text, Algo: nixhash.SHA256}, strings.NewReader("a text"))
	if err != nil {
		t.Fatalf("text: %v", err)
	}
	for _, method := range []storepath.Method{storepath.Flat, storepath.NAR} {
		for _, algo := range []nixhash.Algo{nixhash.SHA1, nixhash.SHA256, nixhash.SHA512} {
			src := []byte("a file")
			if method == storepath.NAR {
				src = fileNAR(t, "a file")
			}
			request := wp.AddToStoreRequest{Name: "file", Method: method, Algo: algo}
			added, err := c.AddToStore(ctx, request, bytes.NewReader(src))
			if err != nil {
				t.Fatalf("%v %v: %v", method, algo, err)
			}
			ca := storepath.ContentAddress{Method: method, Hash: nixhash.Sum(algo, src)}
			want, err := d.layout.Store.FromContentAddress("file", ca, storepath.References{})
			if err != nil {
				t.Fatal(err)
			}
			if added.Path != want || added.CA != ca {
				t.Errorf("%v %v: added %v as %v, want %v as %v", method, algo, added.Path, added.CA, want, ca)
			}
		}
	}
	base := addUnsigned(t, c, "base", "nothing", text.Path)
	top := addUnsigned(t, c, "top", "uses base", base, text.Path)
	addUnsigned(t, c, "top", "uses base", base, text.Path) // again
	if err := c.AddToStoreNar(ctx, wp.AddToStoreNarRequest{Info: wp.ValidPathInfo{
		Path: top, PathInfo: wp.PathInfo{NarHash: nixhash.Sum(nixhash.SHA256, nil), NarSize: 120},
	}, DontCheckSigs: true}, bytes.NewReader(fileNAR(t, "something else"))); err != nil {
		t.Errorf("a path that is valid, with another archive: %v", err)
	}
	testAddMultiple(t, c, base)
	if err := c.AddSignatures(ctx, top, []string{"key:c2ln"}); err != nil {
		t.Errorf("add signatures: %v", err)
	}
	wantError(t, "signatures of nothing", c.AddSignatures(ctx, pathFor(t, "absent"), []string{"key:c2ln"}), "is not valid")
	if err := c.AddBuildLog(ctx, pathFor(t, "some.drv"), strings.NewReader("log\n")); err != nil && !errors.Is(err, wp.ErrUnsupported) {
		t.Errorf("add a log: %v", err)
	}
}

func testAddMultiple(t *testing.T, c *wp.Client, base storepath.Path) {
	var items []wp.Item
	previous := base
	for i := range 50 {
		info, archive := item(t, fmt.Sprintf("many-%d", i), strings.Repeat("x", 1000*i), previous)
		items = append(items, wp.Item{Info: info, NAR: bytes.NewReader(archive)})
		previous = info.Path
	}
	err := c.AddMultipleToStore(t.Context(), wp.AddMultipleToStoreRequest{DontCheckSigs: true}, uint64(len(items)), slices.Values(items))
	if errors.Is(err, wp.ErrUnsupported) {
		return
	}
	if err != nil {
		t.Fatalf("add multiple: %v", err)
	}
	if ok, err := c.IsValidPath(t.Context(), previous); !ok || err != nil {
		t.Errorf("the last one is valid: %v, %v", ok, err)
	}
}

func testQueries(t *testing.T, d *testDaemon, c *wp.Client) {
	ctx := t.Context()
	base, top, absent := pathFor(t, "base"), pathFor(t, "top"), pathFor(t, "absent")
	info, err := c.QueryPathInfo(ctx, top)
	if err != nil || info == nil {
		t.Fatalf("path info: %v, %v", info, err)
	}
	want, archive := item(t, "top", "uses base", base)
	if info.NarHash != want.NarHash || info.NarSize != want.NarSize || len(info.References) != 2 || info.Ultimate {
		t.Errorf("path info %+v", info)
	}
	if !slices.Equal(info.Signatures, []string{"key:c2ln"}) || info.RegistrationTime.IsZero() {
		t.Errorf("signatures %q, time %v", info.Signatures, info.RegistrationTime)
	}
	if info, err := c.QueryPathInfo(ctx, absent); info != nil || err != nil {
		t.Errorf("path info of nothing: %v, %v", info, err)
	}
	if ok, err := c.IsValidPath(ctx, absent); ok || err != nil {
		t.Errorf("nothing is valid: %v, %v", ok, err)
	}
	valid, err := c.QueryValidPaths(ctx, []storepath.Path{top, absent, base, top}, true)
	if err != nil || len(valid) != 2 || !slices.Contains(valid, top) || !slices.IsSortedFunc(valid, storepath.Path.Compare) {
		t.Errorf("valid paths %v, %v", valid, err)
	}
	all, err := c.QueryAllValidPaths(ctx)
	if err != nil || !slices.Contains(all, top) || !slices.IsSortedFunc(all, storepath.Path.Compare) {
		t.Errorf("all valid paths %v, %v", all, err)
	}
	if referrers, err := c.QueryReferrers(ctx, base); err != nil || !slices.Contains(referrers, top) {
		t.Errorf("referrers %v, %v", referrers, err)
	}
	if p, err := c.QueryPathFromHashPart(ctx, top.Digest()); p != top || err != nil {
		t.Errorf("hash part: %v, %v", p, err)
	}
	if p, err := c.QueryPathFromHashPart(ctx, absent.Digest()); !p.IsZero() || err != nil {
		t.Errorf("hash part of nothing: %v, %v", p, err)
	}
	if p, err := c.QueryDeriver(ctx, top); !p.IsZero() || err != nil {
		t.Errorf("deriver: %v, %v", p, err)
	}
	var b bytes.Buffer
	if err := c.NarFromPath(ctx, top, &b); err != nil || !bytes.Equal(b.Bytes(), archive) {
		t.Errorf("archive of %d bytes, %v", b.Len(), err)
	}
	wantError(t, "archive of nothing", c.NarFromPath(ctx, absent, &b), "path '"+d.layout.Store.Join(absent)+"' is not valid")
	if err := c.EnsurePath(ctx, top); err != nil {
		t.Errorf("ensure: %v", err)
	}
	wantError(t, "ensure nothing", c.EnsurePath(ctx, absent), "does not exist and cannot be created")
	testDerivationQueries(t, d, c)
	testSubstitutionQueries(t, c, absent)
}

// testDerivationQueries looks at a derivation with two outputs.
func testDerivationQueries(t *testing.T, d *testDaemon, c *wp.Client) {
	ctx := t.Context()
	drv, outputs := addDerivation(t, d, c, "two", "out", "dev")
	got, err := c.QueryDerivationOutputMap(ctx, drv)
	if err != nil && !errors.Is(err, wp.ErrUnsupported) || err == nil && (len(got) != 2 || got["dev"] != outputs["dev"]) {
		t.Errorf("output map %v, %v", got, err)
	}
	if names, err := c.QueryDerivationOutputNames(ctx, drv); err != nil || !slices.Equal(names, []string{"dev", "out"}) {
		t.Errorf("output names %v, %v", names, err)
	}
	if paths, err := c.QueryDerivationOutputs(ctx, drv); err != nil || len(paths) != 2 || !slices.Contains(paths, outputs["out"]) {
		t.Errorf("outputs %v, %v", paths, err)
	}
	if paths, err := c.QueryValidDerivers(ctx, outputs["out"]); err != nil || !slices.Equal(paths, []storepath.Path{drv}) {
		t.Errorf("derivers %v, %v", paths, err)
	}
	missing, err := c.QueryMissing(ctx, []wp.DerivedPath{{Path: drv, All: true}})
	if errors.Is(err, wp.ErrUnsupported) {
		return
	}
	if err != nil || !slices.Equal(missing.WillBuild, []storepath.Path{drv}) || len(missing.WillSubstitute) > 0 {
		t.Errorf("missing %+v, %v", missing, err)
	}
}

func testSubstitutionQueries(t *testing.T, c *wp.Client, absent storepath.Path) {
	ctx := t.Context()
	if paths, err := c.QuerySubstitutablePaths(ctx, []storepath.Path{absent}); len(paths) > 0 || err != nil {
		t.Errorf("substitutable paths %v, %v", paths, err)
	}
	if info, err := c.QuerySubstitutablePathInfo(ctx, absent); info != nil || err != nil {
		t.Errorf("substitutable path info %v, %v", info, err)
	}
	if infos, err := c.QuerySubstitutablePathInfos(ctx, []wp.PathWithCA{{Path: absent}}); len(infos) > 0 || err != nil {
		t.Errorf("substitutable path infos %v, %v", infos, err)
	}
}

func testRoots(t *testing.T, d *testDaemon, c *wp.Client) {
	ctx := t.Context()
	top := pathFor(t, "top")
	if err := c.AddTempRoot(ctx, pathFor(t, "absent")); err != nil {
		t.Errorf("temporary root of nothing: %v", err)
	}
	if err := c.SyncWithGC(ctx); err != nil {
		t.Errorf("sync with GC: %v", err)
	}
	link := filepath.Join(t.TempDir(), "result")
	if err := os.Symlink(d.layout.Store.Join(top), link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, "", "relative", "/etc/passwd"} {
		if err := c.AddIndirectRoot(ctx, name); err != nil {
			t.Errorf("indirect root %q: %v", name, err)
		}
	}
	roots, err := c.FindRoots(ctx)
	if err != nil || !slices.Contains(roots, wp.Root{Link: link, Target: top}) {
		t.Errorf("roots %v, %v", roots, err)
	}
	perm := filepath.Join(t.TempDir(), "perm")
	switch got, err := c.AddPermRoot(ctx, top, perm); {
	case errors.Is(err, wp.ErrUnsupported):
	case err != nil || got != perm:
		t.Errorf("permanent root %q, %v", got, err)
	}
}

func testMaintenance(t *testing.T, d *testDaemon, c *wp.Client) {
	ctx := t.Context()
	err := c.SetOptions(ctx, wp.SetOptionsRequest{MaxBuildJobs: 7, Verbosity: wp.LevelInfo, Overrides: map[string]string{
		"cores": "3", "no-such-setting": "x", "timeout": "never",
	}})
	if err != nil {
		t.Errorf("options: %v", err)
	}
	if err := c.OptimiseStore(ctx); err != nil {
		t.Errorf("optimise: %v", err)
	}
	for _, contents := range []bool{false, true} {
		if bad, err := c.VerifyStore(ctx, contents, contents); bad || err != nil {
			t.Errorf("verify: %v, %v", bad, err)
		}
	}
	id := wp.DrvOutput{Hash: nixhash.Sum(nixhash.SHA256, nil), Output: "out"}
	if r, err := c.QueryRealisation(ctx, id); !errors.Is(err, wp.ErrUnsupported) && (r != nil || err != nil) {
		t.Errorf("realisation %v, %v", r, err)
	}
	err = c.RegisterDrvOutput(ctx, wp.Realisation{ID: id, OutPath: pathFor(t, "top")})
	if !errors.Is(err, wp.ErrUnsupported) {
		wantError(t, "register a realisation", err, "experimental Nix feature 'ca-derivations' is disabled")
	}
}

func testCollection(t *testing.T, d *testDaemon, c *wp.Client) {
	ctx := t.Context()
	other := d.dial(t, 0)
	fresh := addUnsigned(t, other, "fresh", "held by a connection")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = d.dial(t, c.Protocol().Version)
	live, err := c.CollectGarbage(ctx, wp.CollectGarbageRequest{Action: wp.GCReturnLive, WholeStore: true, MaxFreed: wp.GCNoLimit})
	if err != nil || !slices.Contains(live.Paths, d.layout.Store.Join(fresh)) {
		t.Errorf("live: %v, %v", live, err)
	}
	_, err = c.CollectGarbage(ctx, wp.CollectGarbageRequest{Action: wp.GCDeleteSpecific, Paths: []storepath.Path{fresh}, MaxFreed: wp.GCNoLimit})
	wantError(t, "delete what is held", err, "still alive")
	_, err = c.CollectGarbage(ctx, wp.CollectGarbageRequest{Action: wp.GCDeleteSpecific, Paths: []storepath.Path{fresh}, IgnoreLiveness: true})
	wantError(t, "ignore liveness", err, "you are not allowed to ignore liveness")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	d.waitForClients(t, 1)
	_, err = c.CollectGarbage(ctx, wp.CollectGarbageRequest{Action: wp.GCDeleteDead, WholeStore: true, MaxFreed: wp.GCNoLimit})
	if err != nil {
		t.Fatalf("collect: %v", err)
	}
	for name, want := range map[string]bool{"fresh": false, "top": false, "base": false} {
		if ok, err := c.IsValidPath(ctx, pathFor(t, name)); ok != want || err != nil {
			t.Errorf("%s is valid: %v, %v", name, ok, err)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want uint32 // 0: the error is passed on as it is
	}{
		{&build.Error{Msg: "m", ExitStatus: 102}, 102},
		{fmt.Errorf("wrapped: %w", &build.Error{Msg: "m", ExitStatus: 108}), 108},
		{&build.Error{Msg: "m"}, 0},
		{errors.New("m"), 0},
	} {
		got := withStatus(tc.err)
		var e *wp.Error
		if errors.As(got, &e) != (tc.want > 0) || e != nil && (e.Status != tc.want || e.Msg != "m") {
			t.Errorf("%#v became %#v", tc.err, got)
		}
	}
}
