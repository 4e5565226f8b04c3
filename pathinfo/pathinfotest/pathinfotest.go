// Package pathinfotest is the conformance suite of path info services: every
// implementation runs it over a fresh service for each test.
package pathinfotest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// Run runs the suite. newService returns an empty service, which it closes
// when the test ends.
func Run(t *testing.T, newService func(t testing.TB) pathinfo.Service) {
	tests := []struct {
		name string
		run  func(t *testing.T, s pathinfo.Service)
	}{
		{"Get", testGet},
		{"GetMany", testGetMany},
		{"GetByHashPart", testGetByHashPart},
		{"Empty", testEmpty},
		{"AllAndPaths", testAllAndPaths},
		{"RegisterTwice", testRegisterTwice},
		{"RegisterUnordered", testRegisterUnordered},
		{"RegisterInvalidReference", testRegisterInvalidReference},
		{"RegisterCycle", testRegisterCycle},
		{"RegisterRefused", testRegisterRefused},
		{"RegisterMany", testRegisterMany},
		{"RegisterConcurrently", testRegisterConcurrently},
		{"Replace", testReplace},
		{"ReplaceCycle", testReplaceCycle},
		{"Delete", testDelete},
		{"DeleteInUse", testDeleteInUse},
		{"DeleteMany", testDeleteMany},
		{"Signatures", testSignatures},
		{"Relations", testRelations},
		{"Closure", testClosure},
		{"DrvOutputs", testDrvOutputs},
		{"Graph", testGraph},
		{"GraphSparse", testGraphSparse},
		{"Touch", testTouch},
		{"Realisations", testRealisations},
		{"RealisationsDeleted", testRealisationsDeleted},
		{"Ownership", testOwnership},
		{"Cancelled", testCancelled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newService(t)) })
	}
}

// Path returns a store path that depends on i alone.
func Path(i int) storepath.Path { return pathNamed(i, fmt.Sprintf("path-%d", i)) }

// Drv returns a derivation's path that depends on i alone.
func Drv(i int) storepath.Path { return pathNamed(i, fmt.Sprintf("drv-%d.drv", i)) }

func pathNamed(i int, name string) storepath.Path {
	h := nixhash.Sum(nixhash.SHA256, []byte(name)).Bytes()
	p, err := storepath.New([20]byte(h[:20]), name)
	if err != nil {
		panic(err) // only for names of ours
	}
	return p
}

// Info returns metadata of Path(i) with the given references.
func Info(i int, refs ...storepath.Path) pathinfo.PathInfo {
	return InfoOf(Path(i), i, refs...)
}

// InfoOf returns metadata of path that depends on i.
func InfoOf(path storepath.Path, i int, refs ...storepath.Path) pathinfo.PathInfo {
	contents := fmt.Appendf(nil, "contents %d", i)
	info := pathinfo.PathInfo{
		Path: path,
		Root: castore.Node{
			Kind:   castore.KindFile,
			Digest: castore.Sum(contents),
			Size:   uint64(len(contents)),
		},
		NarHash:          nixhash.Sum(nixhash.SHA256, contents),
		NarSize:          uint64(1000 + i),
		References:       refs,
		RegistrationTime: time.Unix(int64(1_600_000_000+i), 0),
	}
	info.Normalise()
	return info
}

func register(t testing.TB, s pathinfo.Service, infos ...pathinfo.PathInfo) {
	t.Helper()
	if err := s.Register(t.Context(), infos); err != nil {
		t.Fatalf("Register: %v", err)
	}
}

func get(t testing.TB, s pathinfo.Service, p storepath.Path) *pathinfo.PathInfo {
	t.Helper()
	info, err := s.Get(t.Context(), p)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	return info
}

func checkValid(t testing.TB, s pathinfo.Service, p storepath.Path, want bool) {
	t.Helper()
	valid, err := s.Valid(t.Context(), []storepath.Path{p})
	if err != nil {
		t.Fatalf("Valid: %v", err)
	}
	if (len(valid) == 1) != want {
		t.Errorf("valid: %v, want %v", !want, want)
	}
}

func checkInfo(t testing.TB, got *pathinfo.PathInfo, want pathinfo.PathInfo) {
	t.Helper()
	if got == nil {
		t.Error("got no info")
		return
	}
	if got.Path != want.Path || got.Root != want.Root || got.NarHash != want.NarHash || got.NarSize != want.NarSize ||
		got.Deriver != want.Deriver || got.CA != want.CA || got.Ultimate != want.Ultimate ||
		!got.RegistrationTime.Equal(want.RegistrationTime) ||
		!slices.Equal(got.References, want.References) || !slices.Equal(got.Signatures, want.Signatures) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
}

func checkNotFound(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, pathinfo.ErrNotFound) {
		t.Errorf("error %v, want one that is ErrNotFound", err)
	}
}

func checkPaths(t testing.TB, got []storepath.Path, want ...storepath.Path) {
	t.Helper()
	want = slices.Clone(want)
	storepath.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func testEmpty(t *testing.T, s pathinfo.Service) {
	ctx := t.Context()
	_, err := s.Get(ctx, Path(1))
	checkNotFound(t, err)
	_, err = s.Root(ctx, Path(1))
	checkNotFound(t, err)
	_, err = s.GetByHashPart(ctx, Path(1).Digest())
	checkNotFound(t, err)
	_, err = s.DrvOutputs(ctx, Drv(1))
	checkNotFound(t, err)
	_, err = s.Realisation(ctx, "sha256:00!out")
	checkNotFound(t, err)
	checkNotFound(t, s.AddSignatures(ctx, Path(1), []string{"k:s"}))
	checkNotFound(t, s.SetDrvOutputs(ctx, Drv(1), nil))
	for _, call := range []func(context.Context, []storepath.Path) error{
		s.Delete,
		func(ctx context.Context, p []storepath.Path) error { return s.Touch(ctx, p, time.Now()) },
		func(ctx context.Context, p []storepath.Path) error { _, err := s.Valid(ctx, p); return err },
		func(ctx context.Context, p []storepath.Path) error { _, err := s.GetMany(ctx, p); return err },
		func(ctx context.Context, p []storepath.Path) error { _, err := s.References(ctx, p); return err },
	} {
		if err := call(ctx, nil); err != nil {
			t.Errorf("no paths: %v", err)
		}
		if err := call(ctx, []storepath.Path{Path(1)}); err != nil {
			t.Errorf("path that is not valid: %v", err)
		}
	}
	if err := s.Register(ctx, nil); err != nil {
		t.Errorf("register nothing: %v", err)
	}
	graph, err := s.Graph(ctx)
	if err != nil || len(graph) != 0 {
		t.Errorf("graph %v, error %v", graph, err)
	}
	paths, err := s.Paths(ctx)
	if err != nil || len(paths) != 0 {
		t.Errorf("paths %v, error %v", paths, err)
	}
}

func testCancelled(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Register(ctx, []pathinfo.PathInfo{Info(2)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Register: %v", err)
	}
	if _, err := s.Get(ctx, Path(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %v", err)
	}
	if err := s.Delete(ctx, []storepath.Path{Path(1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: %v", err)
	}
	checkValid(t, s, Path(1), true)
	checkValid(t, s, Path(2), false)
}

// testOwnership checks that callers and service do not share memory.
func testOwnership(t *testing.T, s pathinfo.Service) {
	info := Info(2, Path(1))
	info.Signatures = []string{"a:1"}
	want := *info.Clone()
	register(t, s, Info(1), info)
	info.References[0] = Path(9)
	info.Signatures[0] = "b:2"
	got := get(t, s, Path(2))
	checkInfo(t, got, want)
	got.References[0] = Path(8)
	got.Signatures[0] = "c:3"
	checkInfo(t, get(t, s, Path(2)), want)
}
