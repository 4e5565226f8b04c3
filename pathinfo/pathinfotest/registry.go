package pathinfotest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

func testRegisterTwice(t *testing.T, s pathinfo.Service) {
	first := Info(1)
	first.Signatures = []string{"b:1"}
	register(t, s, Info(2), first)

	second := Info(1, Path(2))
	second.Root = castore.Node{Kind: castore.KindSymlink, Target: "x"}
	second.NarHash = nixhash.Sum(nixhash.SHA256, []byte("other"))
	second.NarSize = 7
	second.Deriver = Drv(1)
	second.CA = full().CA
	second.Ultimate = true
	second.Signatures = []string{"c:1", "a:1", "b:1"}
	second.RegistrationTime = time.Unix(5, 0)
	register(t, s, second)

	want := first
	want.Deriver, want.CA, want.Ultimate = second.Deriver, second.CA, true
	want.Signatures = []string{"a:1", "b:1", "c:1"}
	checkInfo(t, get(t, s, Path(1)), want)
	referrers, err := s.Referrers(t.Context(), Path(2))
	if err != nil || len(referrers) != 0 {
		t.Errorf("referrers %v, error %v", referrers, err)
	}

	// What is known already stays.
	third := Info(1)
	third.Deriver = Drv(2)
	register(t, s, third)
	checkInfo(t, get(t, s, Path(1)), want)

	// Twice in one call.
	a, b := Info(5, Path(1)), Info(5, Path(2))
	a.Signatures, b.Signatures = []string{"x:1"}, []string{"y:1"}
	register(t, s, a, b)
	a.Signatures = []string{"x:1", "y:1"}
	checkInfo(t, get(t, s, Path(5)), a)
}

func testRegisterUnordered(t *testing.T, s pathinfo.Service) {
	infos := []pathinfo.PathInfo{Info(4, Path(3), Path(1)), Info(3, Path(2), Path(3)), Info(1), Info(2, Path(1))}
	register(t, s, infos...)
	for _, info := range infos {
		checkInfo(t, get(t, s, info.Path), info)
	}
}

func testRegisterInvalidReference(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1))
	err := s.Register(t.Context(), []pathinfo.PathInfo{Info(2, Path(1)), Info(3, Path(2), Path(9)), Info(4)})
	var invalid *pathinfo.InvalidReferenceError
	if !errors.As(err, &invalid) || invalid.Path != Path(3) || invalid.Reference != Path(9) {
		t.Fatalf("error %v", err)
	}
	for _, i := range []int{2, 3, 4, 9} {
		checkValid(t, s, Path(i), false)
	}
	register(t, s, Info(2, Path(1)), Info(3, Path(2), Path(9)), Info(4), Info(9))
}

func testRegisterCycle(t *testing.T, s pathinfo.Service) {
	err := s.Register(t.Context(), []pathinfo.PathInfo{Info(1, Path(3)), Info(2, Path(1)), Info(3, Path(2)), Info(4)})
	var cycle *pathinfo.CycleError
	if !errors.As(err, &cycle) {
		t.Fatalf("error %v", err)
	}
	for i := range 5 {
		checkValid(t, s, Path(i), false)
	}
}

func testRegisterRefused(t *testing.T, s pathinfo.Service) {
	tests := map[string]func(*pathinfo.PathInfo){
		"no path":            func(i *pathinfo.PathInfo) { i.Path = storepath.Path{} },
		"no hash":            func(i *pathinfo.PathInfo) { i.NarHash = nixhash.Hash{} },
		"other hash":         func(i *pathinfo.PathInfo) { i.NarHash = nixhash.Sum(nixhash.SHA512, nil) },
		"no root":            func(i *pathinfo.PathInfo) { i.Root = castore.Node{} },
		"bad root":           func(i *pathinfo.PathInfo) { i.Root = castore.Node{Kind: castore.KindSymlink} },
		"empty signature":    func(i *pathinfo.PathInfo) { i.Signatures = []string{""} },
		"signature of two":   func(i *pathinfo.PathInfo) { i.Signatures = []string{"a:1\nb:2"} },
		"signature with NUL": func(i *pathinfo.PathInfo) { i.Signatures = []string{"a:\x00"} },
	}
	for name, change := range tests {
		info := Info(1)
		change(&info)
		if err := s.Register(t.Context(), []pathinfo.PathInfo{Info(2), info}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		checkValid(t, s, Path(2), false)
	}
}

func testRegisterMany(t *testing.T, s pathinfo.Service) {
	const n = 10_001
	infos := make([]pathinfo.PathInfo, n)
	paths := make([]storepath.Path, n)
	for i := range infos {
		refs := []storepath.Path{Path(i)}
		if i > 0 {
			refs = append(refs, Path(i-1), Path(i/2))
		}
		infos[n-1-i] = Info(i, refs...)
		paths[i] = Path(i)
	}
	register(t, s, infos...)
	valid, err := s.Valid(t.Context(), paths)
	if err != nil || len(valid) != n {
		t.Fatalf("%d valid, want %d; error %v", len(valid), n, err)
	}
	got, err := s.GetMany(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		checkInfo(t, got[i], infos[n-1-i])
	}
}

func testRegisterConcurrently(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(0))
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 1; i <= 20; i++ {
				info := Info(i, Path(i-1)) // the same paths for all
				info.Signatures = []string{string(rune('a'+w)) + ":1"}
				if err := s.Register(t.Context(), []pathinfo.PathInfo{info}); err != nil {
					t.Errorf("Register: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := 1; i <= 20; i++ {
		info := get(t, s, Path(i))
		if len(info.Signatures) != 8 || len(info.References) != 1 {
			t.Errorf("path %d has %d signatures, %d references", i, len(info.Signatures), len(info.References))
		}
	}
}

func testReplace(t *testing.T, s pathinfo.Service) {
	old := Info(3, Path(1))
	old.Signatures = []string{"a:1"}
	old.Deriver = Drv(1)
	old.Ultimate = true
	register(t, s, Info(1), Info(2), old)

	next := Info(3, Path(2), Path(3))
	next.Root = castore.Node{Kind: castore.KindSymlink, Target: "x"}
	next.NarHash = nixhash.Sum(nixhash.SHA256, []byte("other"))
	next.NarSize = 7
	next.CA = full().CA
	next.Signatures = []string{"b:1"}
	next.RegistrationTime = time.Unix(5, 0)
	if err := s.Replace(t.Context(), []pathinfo.PathInfo{next, Info(4, Path(3))}); err != nil {
		t.Fatal(err)
	}
	want := next
	want.Signatures = []string{"a:1", "b:1"}
	want.RegistrationTime = old.RegistrationTime
	checkInfo(t, get(t, s, Path(3)), want)
	checkInfo(t, get(t, s, Path(4)), Info(4, Path(3)))
	for i, want := range map[int][]storepath.Path{1: nil, 2: {Path(3)}, 3: {Path(3), Path(4)}} {
		referrers, err := s.Referrers(t.Context(), Path(i))
		if err != nil {
			t.Fatal(err)
		}
		checkPaths(t, referrers, want...)
	}
	var invalid *pathinfo.InvalidReferenceError
	if err := s.Replace(t.Context(), []pathinfo.PathInfo{Info(3, Path(9))}); !errors.As(err, &invalid) {
		t.Errorf("error %v", err)
	}
	checkInfo(t, get(t, s, Path(3)), want)
}

func testReplaceCycle(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1), Info(2, Path(1)), Info(3, Path(2)))
	var cycle *pathinfo.CycleError
	if err := s.Replace(t.Context(), []pathinfo.PathInfo{Info(1, Path(3))}); !errors.As(err, &cycle) {
		t.Fatalf("error %v", err)
	}
	checkInfo(t, get(t, s, Path(1)), Info(1))
	// Over a path that is new.
	err := s.Replace(t.Context(), []pathinfo.PathInfo{Info(1, Path(4)), Info(4, Path(3))})
	if !errors.As(err, &cycle) {
		t.Fatalf("error %v", err)
	}
	checkValid(t, s, Path(4), false)
	if err := s.Replace(t.Context(), []pathinfo.PathInfo{Info(3, Path(1), Path(3))}); err != nil {
		t.Fatal(err)
	}
}

func testDelete(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1, Path(1)), Info(2, Path(1)), Info(3, Path(2), Path(1)), Info(4))
	ctx := t.Context()
	if err := s.Delete(ctx, []storepath.Path{Path(3), Path(9), Path(3)}); err != nil {
		t.Fatal(err)
	}
	checkValid(t, s, Path(3), false)
	referrers, err := s.Referrers(ctx, Path(1))
	if err != nil {
		t.Fatal(err)
	}
	checkPaths(t, referrers, Path(1), Path(2))
	// In any order, with a reference to itself.
	if err := s.Delete(ctx, []storepath.Path{Path(1), Path(2)}); err != nil {
		t.Fatal(err)
	}
	paths, err := s.Paths(ctx)
	if err != nil {
		t.Fatal(err)
	}
	checkPaths(t, paths, Path(4))
	// And back again.
	register(t, s, Info(1), Info(2, Path(1)))
	checkInfo(t, get(t, s, Path(2)), Info(2, Path(1)))
}

func testDeleteInUse(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1), Info(2, Path(1)), Info(3, Path(2)), Info(4))
	err := s.Delete(t.Context(), []storepath.Path{Path(4), Path(1), Path(2)})
	var inUse *pathinfo.InUseError
	if !errors.As(err, &inUse) || inUse.Path != Path(2) || inUse.Referrer != Path(3) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []pathinfo.PathInfo{Info(1), Info(2, Path(1)), Info(3, Path(2)), Info(4)} {
		checkInfo(t, get(t, s, want.Path), want)
	}
}

func testDeleteMany(t *testing.T, s pathinfo.Service) {
	const n = 10_050
	var infos []pathinfo.PathInfo
	var paths []storepath.Path
	for i := range n {
		var refs []storepath.Path
		if i > 0 {
			refs = append(refs, Path(i-1))
		}
		infos = append(infos, Info(i, refs...))
		if i > 0 {
			paths = append(paths, Path(i))
		}
	}
	register(t, s, infos...)
	var inUse *pathinfo.InUseError
	if err := s.Delete(t.Context(), paths[:n-2]); !errors.As(err, &inUse) {
		t.Fatalf("error %v", err)
	}
	if err := s.Delete(t.Context(), paths); err != nil {
		t.Fatal(err)
	}
	left, err := s.Paths(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkPaths(t, left, Path(0))
}

func testSignatures(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1))
	for _, sigs := range [][]string{{"b:1", "a:1"}, {"c:1", "a:1"}, nil} {
		if err := s.AddSignatures(t.Context(), Path(1), sigs); err != nil {
			t.Fatal(err)
		}
	}
	want := Info(1)
	want.Signatures = []string{"a:1", "b:1", "c:1"}
	checkInfo(t, get(t, s, Path(1)), want)
	if err := s.AddSignatures(t.Context(), Path(1), []string{"x\ny"}); !errors.Is(err, pathinfo.ErrBadSignature) {
		t.Errorf("error %v", err)
	}
}
