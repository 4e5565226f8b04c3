package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

func del(t testing.TB, s *store.Store, paths ...storepath.Path) []storepath.Path {
	t.Helper()
	gone, err := s.Delete(t.Context(), paths)
	if err != nil {
		t.Fatalf("Delete: %v", err)
	}
	return gone
}

// addGraph adds paths named by letters: "a:bc" refers to b and c.
func addGraph(t testing.TB, s *store.Store, specs ...string) {
	t.Helper()
	for _, spec := range specs {
		name, refs, _ := strings.Cut(spec, ":")
		var list []storepath.Path
		for _, r := range refs {
			list = append(list, path(string(r)))
		}
		addNAR(t, s, path(name), file(t, name), list...)
	}
}

func letters(paths []storepath.Path) string {
	var names []string
	for _, p := range paths {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	return strings.Join(names, "")
}

func pathsOf(names string) (paths []storepath.Path) {
	for _, r := range names {
		paths = append(paths, path(string(r)))
	}
	return paths
}

func TestDelete(t *testing.T) {
	tests := []struct {
		name  string
		graph []string
		lease string
		del   string
		gone  string
	}{
		{"nothing", []string{"a"}, "", "", ""},
		{"not valid", []string{"a"}, "", "x", ""},
		{"all", []string{"a", "b:a", "c:b"}, "", "abc", "abc"},
		{"leased", []string{"a", "b"}, "a", "ab", "b"},
		{"reached from a leased one", []string{"a", "b:a", "c:b", "d"}, "c", "abcd", "d"},
		{"reached over a leased one outside", []string{"a", "b:a", "c"}, "b", "ac", "c"},
		{"in use", []string{"a", "b:a", "c:b", "d"}, "", "abd", "d"},
		{"in use, chain", []string{"a", "b:a", "c:b", "d:a", "e:d"}, "", "abde", "de"},
		{"self reference", []string{"a:a", "b:ab"}, "", "ab", "ab"},
		{"lease of what is not valid", []string{"a"}, "x", "a", "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			addGraph(t, s, tt.graph...)
			var told []storepath.Path
			s.Listen(store.Listener{Removed: func(p []storepath.Path) { told = append(told, p...) }})
			l := s.NewLease()
			l.Add(pathsOf(tt.lease)...)
			gone := del(t, s, pathsOf(tt.del)...)
			if letters(gone) != tt.gone || letters(told) != tt.gone {
				t.Errorf("gone %q, listener told of %q, want %q", letters(gone), letters(told), tt.gone)
			}
			for _, p := range pathsOf(tt.gone) {
				if isValid(t, s, p) {
					t.Errorf("%s is valid", p.Name())
				}
			}
			l.Release()
			left, err := s.PathInfo().Paths(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := len(del(t, s, left...)); n != len(left) {
				t.Errorf("%d of %d paths can be deleted without leases", n, len(left))
			}
		})
	}
}

func TestDeleteUnreferenced(t *testing.T) {
	s := newStore(t)
	addGraph(t, s, "a:a", "b:a")
	_, err := s.DeleteUnreferenced(t.Context(), path("a"))
	var inUse *pathinfo.InUseError
	want := fmt.Sprintf("cannot delete path '/nix/store/%s' because it is in use by '/nix/store/%s'", path("a"), path("b"))
	if !errors.As(err, &inUse) || err.Error() != want {
		t.Errorf("error %v", err)
	}
	l := s.NewLease()
	l.Add(path("b"))
	if gone, err := s.DeleteUnreferenced(t.Context(), path("b")); gone || err != nil {
		t.Errorf("leased: gone %v, error %v", gone, err)
	}
	l.Release()
	for _, p := range pathsOf("ba") {
		if gone, err := s.DeleteUnreferenced(t.Context(), p); !gone || err != nil {
			t.Errorf("gone %v, error %v", gone, err)
		}
	}
}

func TestLease(t *testing.T) {
	s := newStore(t)
	a, b := s.NewLease(), s.NewLease()
	a.Add(path("x"), path("y"), path("x"))
	b.Add(path("x"))
	if got := letters(s.TempRoots()); got != "xy" {
		t.Errorf("temp roots %q", got)
	}
	a.Release()
	a.Release()
	if got := letters(s.TempRoots()); got != "x" {
		t.Errorf("temp roots %q", got)
	}
	a.Add(path("z")) // too late
	heir := s.Heir()
	b.Release()
	c := s.NewLease()
	c.Add(path("w"))
	c.Release()
	if got := letters(s.TempRoots()); got != "wx" {
		t.Errorf("temp roots with an heir %q", got)
	}
	heir.Release()
	if got := letters(s.TempRoots()); got != "" {
		t.Errorf("temp roots %q", got)
	}
}

// TestLeaseWaits leases a path while it is being deleted.
func TestLeaseWaits(t *testing.T) {
	s := newStore(t)
	addGraph(t, s, "a", "b")
	leased := make(chan struct{})
	s.Listen(store.Listener{Removed: func([]storepath.Path) {
		// The deletion cannot be stopped any more, and has not ended.
		other := s.NewLease()
		other.Add(path("b")) // another path does not wait
		other.Release()
		go func() {
			l := s.NewLease()
			defer l.Release()
			l.Add(path("a"))
			if isValid(t, s, path("a")) {
				t.Error("a leased path that was deleted is valid")
			}
			close(leased)
		}()
	}})
	del(t, s, path("a"))
	<-leased
}

// TestLeasesAgainstDeletes lets adders and users work beside a collector that
// deletes whatever it can.
func TestLeasesAgainstDeletes(t *testing.T) {
	s := newStore(t)
	const n = 12
	dumps := make([][]byte, n)
	for i := range dumps {
		dumps[i] = file(t, strings.Repeat("x", i))
	}
	name := func(i int) storepath.Path { return path(fmt.Sprintf("p%d", i)) }
	var stop atomic.Bool
	var collector sync.WaitGroup
	collector.Go(func() {
		for !stop.Load() {
			paths, err := s.PathInfo().Paths(t.Context())
			if err != nil {
				t.Errorf("Paths: %v", err)
				return
			}
			if _, err := s.Delete(t.Context(), paths); err != nil {
				t.Errorf("Delete: %v", err)
				return
			}
		}
	})
	var users sync.WaitGroup
	for u := range 4 {
		users.Go(func() {
			r := rand.New(rand.NewPCG(uint64(u), 0))
			for range 60 {
				i := r.IntN(n)
				l := s.NewLease()
				for j := range i + 1 { // the path and what it refers to
					l.Add(name(j))
				}
				for j := range i + 1 {
					var refs []storepath.Path
					if j > 0 {
						refs = append(refs, name(j-1))
					}
					info := claim(name(j), dumps[j], refs...)
					if err := s.AddNAR(t.Context(), info, bytes.NewReader(dumps[j]), store.AddOptions{}); err != nil {
						t.Errorf("AddNAR: %v", err)
					}
				}
				checkNAR(t, s, name(i), dumps[i])
				l.Release()
			}
		})
	}
	users.Wait()
	stop.Store(true)
	collector.Wait()
	if len(s.TempRoots()) > 0 {
		t.Error("a lease is left")
	}
}

func TestClosure(t *testing.T) {
	s := newStore(t)
	addGraph(t, s, "a", "b:a", "c:bc", "d:a", "e")
	drv := path("x.drv")
	info := claim(drv, file(t, "drv"))
	// Behind the store's back, which would want a real derivation.
	info.Root.Kind, info.Root.Target = 3, "x"
	info.Outputs = map[string]storepath.Path{"out": path("c"), "dev": path("missing")}
	info.References = []storepath.Path{path("e")}
	built := claim(path("f"), file(t, "f"), path("d"))
	built.Root = info.Root
	built.Deriver = drv
	if err := s.PathInfo().Register(t.Context(), []pathinfo.PathInfo{info, built}); err != nil {
		t.Fatal(err)
	}
	x := "x.drv"
	tests := []struct {
		from string
		opts store.ClosureOptions
		want string
	}{
		{"c", store.ClosureOptions{}, "abc"},
		{"cd", store.ClosureOptions{}, "abcd"},
		{"", store.ClosureOptions{}, ""},
		{"a", store.ClosureOptions{Reverse: true}, "abcdf"},
		{"f", store.ClosureOptions{IncludeDerivers: true}, "adef" + x},
		{"f", store.ClosureOptions{IncludeDerivers: true, IncludeOutputs: true}, "abcdef" + x},
		{"c", store.ClosureOptions{Reverse: true, IncludeOutputs: true}, "c" + x},
		{"e", store.ClosureOptions{Reverse: true, IncludeDerivers: true}, "ce" + x},
		{"e", store.ClosureOptions{Reverse: true}, "e" + x},
	}
	for _, tt := range tests {
		got, err := s.Closure(t.Context(), pathsOf(tt.from), tt.opts)
		if err != nil {
			t.Fatal(err)
		}
		if letters(got) != tt.want {
			t.Errorf("%s, %+v: %q, want %q", tt.from, tt.opts, letters(got), tt.want)
		}
	}
	_, err := s.Closure(t.Context(), pathsOf("az"), store.ClosureOptions{})
	if !errors.Is(err, pathinfo.ErrNotFound) || err.Error() != "path '/nix/store/"+path("z").Base()+"' is not valid" {
		t.Errorf("error %v", err)
	}
}

// TestClosureWide has levels that are loaded as a graph, and long chains.
func TestClosureWide(t *testing.T) {
	s := newStore(t)
	root := claim(path("root"), file(t, ""))
	root.Root.Kind, root.Root.Target = 3, "x"
	infos := []pathinfo.PathInfo{}
	for i := range 1000 {
		info := root
		info.Path = path(fmt.Sprintf("p%d", i))
		info.References = nil
		if i > 500 {
			info.References = []storepath.Path{path(fmt.Sprintf("p%d", i-1))}
		}
		infos = append(infos, info)
		root.References = append(root.References, info.Path)
	}
	if err := s.PathInfo().Register(t.Context(), append(infos, root)); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]int{"root": 1001, "p999": 500} {
		got, err := s.Closure(t.Context(), []storepath.Path{path(from)}, store.ClosureOptions{})
		if err != nil || len(got) != want || !slices.IsSortedFunc(got, storepath.Path.Compare) {
			t.Errorf("%s: %d paths, want %d; error %v", from, len(got), want, err)
		}
	}
}
