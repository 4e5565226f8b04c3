package pathinfotest

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

func testRelations(t *testing.T, s pathinfo.Service) {
	ctx := t.Context()
	register(t, s, Info(1), Info(2, Path(1)), Info(3, Path(1), Path(2), Path(3)), Info(4))
	for i, want := range map[int][]storepath.Path{
		1: {Path(2), Path(3)}, 2: {Path(3)}, 3: {Path(3)}, 4: nil, 9: nil,
	} {
		got, err := s.Referrers(ctx, Path(i))
		if err != nil {
			t.Fatal(err)
		}
		checkPaths(t, got, want...)
	}
	refs, err := s.References(ctx, []storepath.Path{Path(3), Path(9), Path(4), Path(2), Path(3)})
	if err != nil || len(refs) != 5 {
		t.Fatalf("%v, error %v", refs, err)
	}
	checkPaths(t, refs[0], Path(1), Path(2), Path(3))
	checkPaths(t, refs[1])
	checkPaths(t, refs[2])
	checkPaths(t, refs[3], Path(1))
	checkPaths(t, refs[4], Path(1), Path(2), Path(3))
}

func testClosure(t *testing.T, s pathinfo.Service) {
	ctx := t.Context()
	register(t, s, Info(1), Info(2, Path(1)), Info(3, Path(2), Path(3)), Info(4, Path(1)), Info(5), Info(6, Path(5)))
	check := func(reverse bool, from []storepath.Path, want ...storepath.Path) {
		t.Helper()
		got, err := s.Closure(ctx, from, reverse)
		if err != nil {
			t.Fatal(err)
		}
		checkPaths(t, got, want...)
	}
	check(false, nil)
	check(false, []storepath.Path{Path(9)})
	check(false, []storepath.Path{Path(3)}, Path(1), Path(2), Path(3))
	check(false, []storepath.Path{Path(4), Path(3), Path(4), Path(9)}, Path(1), Path(2), Path(3), Path(4))
	check(true, []storepath.Path{Path(1)}, Path(1), Path(2), Path(3), Path(4))
	check(true, []storepath.Path{Path(3), Path(5)}, Path(3), Path(5), Path(6))

	// A long chain, and one start more than fits into any batch.
	const n = 12_000
	var chain []pathinfo.PathInfo
	var all []storepath.Path
	for i := 10; i < 10+n; i++ {
		chain = append(chain, Info(i))
		if i > 10 {
			chain[i-10] = Info(i, Path(i-1))
		}
		all = append(all, Path(i))
	}
	register(t, s, chain...)
	check(false, []storepath.Path{Path(10 + n - 1)}, all...)
	check(true, []storepath.Path{Path(10)}, all...)
	check(false, all, all...)
}

func testDrvOutputs(t *testing.T, s pathinfo.Service) {
	ctx := t.Context()
	out, dev := Path(11), Path(12) // never valid
	drv := InfoOf(Drv(1), 1)
	drv.Outputs = map[string]storepath.Path{"out": out, "dev": dev}
	other := InfoOf(Drv(2), 2)
	other.Outputs = map[string]storepath.Path{"out": out, "same": out}
	register(t, s, drv, other, InfoOf(Drv(3), 3))

	check := func(drv storepath.Path, want map[string]storepath.Path) {
		t.Helper()
		got, err := s.DrvOutputs(ctx, drv)
		if err != nil {
			t.Fatal(err)
		}
		if got == nil || !maps.Equal(got, want) {
			t.Errorf("outputs of %s: %v, want %v", drv, got, want)
		}
	}
	derivers := func(output storepath.Path, want ...storepath.Path) {
		t.Helper()
		got, err := s.Derivers(ctx, output)
		if err != nil {
			t.Fatal(err)
		}
		checkPaths(t, got, want...)
	}
	check(Drv(1), drv.Outputs)
	check(Drv(3), nil)
	derivers(out, Drv(1), Drv(2))
	derivers(dev, Drv(1))
	derivers(Drv(1))
	if info := get(t, s, Drv(1)); info.Outputs != nil {
		t.Errorf("Get returns outputs %v", info.Outputs)
	}

	// Registering again without outputs changes nothing, with outputs replaces.
	register(t, s, InfoOf(Drv(1), 1))
	check(Drv(1), drv.Outputs)
	if err := s.SetDrvOutputs(ctx, Drv(1), map[string]storepath.Path{"lib": dev}); err != nil {
		t.Fatal(err)
	}
	check(Drv(1), map[string]storepath.Path{"lib": dev})
	derivers(out, Drv(2))
	derivers(dev, Drv(1))

	if err := s.Delete(ctx, []storepath.Path{Drv(1), Drv(2)}); err != nil {
		t.Fatal(err)
	}
	derivers(out)
	derivers(dev)
	_, err := s.DrvOutputs(ctx, Drv(1))
	checkNotFound(t, err)
}

func testGraph(t *testing.T, s pathinfo.Service) {
	drv := InfoOf(Drv(1), 1, Path(1))
	drv.Outputs = map[string]storepath.Path{"out": Path(3), "dev": Path(12)}
	out := Info(3, Path(1), Path(3), Path(2))
	out.Deriver = Drv(1)
	register(t, s, Info(1), Info(2), drv, out)
	graph, err := s.Graph(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []pathinfo.PathInfo{Info(1), Info(2), drv, out}
	slices.SortFunc(want, func(a, b pathinfo.PathInfo) int { return a.Path.Compare(b.Path) })
	if len(graph) != len(want) {
		t.Fatalf("%d nodes, want %d", len(graph), len(want))
	}
	for i, n := range graph {
		w := want[i]
		if n.Path != w.Path || n.Deriver != w.Deriver || n.NarSize != w.NarSize ||
			!n.RegistrationTime.Equal(w.RegistrationTime) || !n.LastUse.Equal(w.RegistrationTime) {
			t.Errorf("node %+v\nwant %+v", n, w)
		}
		checkPaths(t, n.References, w.References...)
		checkPaths(t, n.Outputs, slices.Collect(maps.Values(w.Outputs))...)
	}
}

// testGraphSparse has far more paths deleted than are left.
func testGraphSparse(t *testing.T, s pathinfo.Service) {
	const n = 4000
	var infos []pathinfo.PathInfo
	var paths []storepath.Path
	for i := range n {
		infos = append(infos, Info(i))
		paths = append(paths, Path(i))
	}
	register(t, s, infos...)
	register(t, s, Info(n, Path(0)))
	if err := s.Delete(t.Context(), paths[1:]); err != nil {
		t.Fatal(err)
	}
	graph, err := s.Graph(t.Context())
	if err != nil || len(graph) != 2 {
		t.Fatalf("%d nodes, error %v", len(graph), err)
	}
	for _, node := range graph {
		if node.Path == Path(n) {
			checkPaths(t, node.References, Path(0))
		} else {
			checkPaths(t, node.References)
		}
	}
}

func testTouch(t *testing.T, s pathinfo.Service) {
	ctx := t.Context()
	register(t, s, Info(1), Info(2))
	lastUse := func() time.Time {
		t.Helper()
		graph, err := s.Graph(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range graph {
			if n.Path == Path(1) {
				return n.LastUse
			}
			if !n.LastUse.Equal(n.RegistrationTime) {
				t.Errorf("path %s was used at %v", n.Path, n.LastUse)
			}
		}
		t.Fatal("path is gone")
		return time.Time{}
	}
	at := time.Unix(1_700_000_000, 5)
	for range 2 {
		if err := s.Touch(ctx, []storepath.Path{Path(1), Path(9)}, at); err != nil {
			t.Fatal(err)
		}
		if got := lastUse(); got.Unix() != at.Unix() {
			t.Errorf("last use %v, want %v", got, at)
		}
		if err := s.Touch(ctx, []storepath.Path{Path(1)}, time.Unix(5, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	idA = "sha256:aa!out"
	idB = "sha256:bb!out"
	idC = "sha256:cc!dev"
)

func testRealisations(t *testing.T, s pathinfo.Service) {
	ctx := t.Context()
	register(t, s, Info(1), Info(2), Info(3))
	put := func(r pathinfo.Realisation) {
		t.Helper()
		if err := s.PutRealisation(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	check := func(id string, out storepath.Path, sigs []string, deps map[string]storepath.Path) {
		t.Helper()
		r, err := s.Realisation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if r.ID != id || r.OutPath != out || !slices.Equal(r.Signatures, sigs) || !maps.Equal(r.DependentRealisations, deps) {
			t.Errorf("got %+v", *r)
		}
	}
	put(pathinfo.Realisation{ID: idA, OutPath: Path(1), Signatures: []string{"b:1"}})
	put(pathinfo.Realisation{ID: idA, OutPath: Path(1), Signatures: []string{"a:1"}})
	check(idA, Path(1), []string{"a:1", "b:1"}, nil)
	put(pathinfo.Realisation{ID: idB, OutPath: Path(2), DependentRealisations: map[string]storepath.Path{idA: Path(1)}})
	check(idB, Path(2), nil, map[string]storepath.Path{idA: Path(1)})
	// Two realisations of one path.
	put(pathinfo.Realisation{ID: idC, OutPath: Path(2)})
	check(idC, Path(2), nil, nil)

	var conflict *pathinfo.RealisationConflictError
	err := s.PutRealisation(ctx, pathinfo.Realisation{ID: idA, OutPath: Path(2)})
	if !errors.As(err, &conflict) || conflict.Have != Path(1) || conflict.Want != Path(2) || conflict.Dependency != "" {
		t.Errorf("other path: %v", err)
	}
	err = s.PutRealisation(ctx, pathinfo.Realisation{
		ID: "sha256:dd!out", OutPath: Path(3), DependentRealisations: map[string]storepath.Path{idA: Path(2)},
	})
	if !errors.As(err, &conflict) || conflict.Have != Path(1) || conflict.Dependency != idA {
		t.Errorf("dependency with another path: %v", err)
	}
	err = s.PutRealisation(ctx, pathinfo.Realisation{
		ID: "sha256:dd!out", OutPath: Path(3), DependentRealisations: map[string]storepath.Path{"sha256:ee!out": Path(2)},
	})
	if !errors.As(err, &conflict) || !conflict.Have.IsZero() {
		t.Errorf("unknown dependency: %v", err)
	}
	_, err = s.Realisation(ctx, "sha256:dd!out")
	checkNotFound(t, err)
	var invalid *pathinfo.InvalidReferenceError
	err = s.PutRealisation(ctx, pathinfo.Realisation{ID: "sha256:dd!out", OutPath: Path(9)})
	if !errors.As(err, &invalid) {
		t.Errorf("path that is not valid: %v", err)
	}
}

func testRealisationsDeleted(t *testing.T, s pathinfo.Service) {
	ctx := t.Context()
	register(t, s, Info(1), Info(2), Info(3))
	for _, r := range []pathinfo.Realisation{
		{ID: idA, OutPath: Path(1)},
		{ID: idB, OutPath: Path(2), DependentRealisations: map[string]storepath.Path{idA: Path(1)}},
		{ID: idC, OutPath: Path(3), DependentRealisations: map[string]storepath.Path{idA: Path(1), idB: Path(2)}},
	} {
		if err := s.PutRealisation(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, []storepath.Path{Path(1)}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Realisation(ctx, idA)
	checkNotFound(t, err)
	r, err := s.Realisation(ctx, idC)
	if err != nil || !maps.Equal(r.DependentRealisations, map[string]storepath.Path{idB: Path(2)}) {
		t.Errorf("got %+v, error %v", r, err)
	}
	// The output can be realised as another path now.
	if err := s.PutRealisation(ctx, pathinfo.Realisation{ID: idA, OutPath: Path(3)}); err != nil {
		t.Error(err)
	}
}
