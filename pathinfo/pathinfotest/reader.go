package pathinfotest

import (
	"testing"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// full returns metadata in which everything is set.
func full() pathinfo.PathInfo {
	info := Info(3, Path(1), Path(2), Path(3))
	info.Deriver = Drv(7)
	info.CA = storepath.ContentAddress{
		Method: storepath.NAR,
		Hash:   nixhash.Sum(nixhash.SHA1, []byte("x")),
	}
	info.Signatures = []string{"cache-1:AAAA", "cache-2:BBBB"}
	info.Ultimate = true
	return info
}

func testGet(t *testing.T, s pathinfo.Service) {
	dir := Info(1)
	dir.Root = castore.Node{Kind: castore.KindDirectory, Digest: castore.Sum([]byte("d")), Size: 1 << 40}
	link := Info(2)
	link.Root = castore.Node{Kind: castore.KindSymlink, Target: "../\xff x\n"}
	link.NarSize = 1<<64 - 1
	exec := Info(4)
	exec.Root.Executable = true
	infos := []pathinfo.PathInfo{dir, link, full(), exec}
	register(t, s, infos...)
	for _, want := range infos {
		checkInfo(t, get(t, s, want.Path), want)
		root, err := s.Root(t.Context(), want.Path)
		if err != nil || root != want.Root {
			t.Errorf("Root: %+v, %v; want %+v", root, err, want.Root)
		}
	}

	before := time.Now().Truncate(time.Second)
	undated := Info(5)
	undated.RegistrationTime = time.Time{}
	register(t, s, undated)
	got := get(t, s, Path(5)).RegistrationTime
	if got.Before(before) || got.After(time.Now()) {
		t.Errorf("registered at %v, want now", got)
	}
}

func testGetMany(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1), Info(2), full())
	got, err := s.GetMany(t.Context(), []storepath.Path{Path(3), Path(8), Path(1), Path(3)})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 || got[1] != nil {
		t.Fatalf("got %v", got)
	}
	checkInfo(t, got[0], full())
	checkInfo(t, got[2], Info(1))
	checkInfo(t, got[3], full())

	valid, err := s.Valid(t.Context(), []storepath.Path{Path(3), Path(8), Path(1), Path(9)})
	if err != nil {
		t.Fatal(err)
	}
	if len(valid) != 2 || valid[0] != Path(3) || valid[1] != Path(1) {
		t.Errorf("valid: %v", valid)
	}
}

func testGetByHashPart(t *testing.T, s pathinfo.Service) {
	register(t, s, Info(1), Info(2), full())
	got, err := s.GetByHashPart(t.Context(), Path(3).Digest())
	if err != nil {
		t.Fatal(err)
	}
	checkInfo(t, got, full())
	_, err = s.GetByHashPart(t.Context(), Path(4).Digest())
	checkNotFound(t, err)

	// A path of the same name with another hash, and the other way round.
	digest := Path(1).Digest()
	digest[19] ^= 1
	other, err := storepath.New(digest, Path(1).Name())
	if err != nil {
		t.Fatal(err)
	}
	checkValid(t, s, other, false)
	renamed, err := storepath.New(Path(1).Digest(), "other")
	if err != nil {
		t.Fatal(err)
	}
	checkValid(t, s, renamed, false)
	_, err = s.Get(t.Context(), renamed)
	checkNotFound(t, err)
}

func testAllAndPaths(t *testing.T, s pathinfo.Service) {
	const n = 1234 // more than any page
	var infos []pathinfo.PathInfo
	var want []storepath.Path
	for i := range n {
		info := Info(i)
		if i > 0 {
			info = Info(i, Path(i-1), Path(i))
		}
		infos = append(infos, info)
		want = append(want, info.Path)
	}
	register(t, s, infos...)
	paths, err := s.Paths(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkPaths(t, paths, want...)

	byPath := make(map[storepath.Path]pathinfo.PathInfo)
	for _, info := range infos {
		byPath[info.Path] = info
	}
	i := 0
	for info, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Path != paths[i] {
			t.Fatalf("element %d is %s, want %s", i, info.Path, paths[i])
		}
		checkInfo(t, info, byPath[info.Path])
		i++
	}
	if i != n {
		t.Errorf("All yields %d paths, want %d", i, n)
	}
	for range s.All(t.Context()) {
		break
	}

	roots := make(map[castore.Node]bool)
	for root, err := range s.Roots(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		roots[root] = true
	}
	for _, info := range infos {
		if !roots[info.Root] {
			t.Fatalf("root of %s is missing", info.Path)
		}
	}
	for range s.Roots(t.Context()) {
		break
	}
}
