package gc

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
)

// TestDamagedPath collects beside a live path whose contents are not there: dead
// paths go, no contents do, the client is told why, and once the damaged path is
// gone everything goes on.
func TestDamagedPath(t *testing.T) {
	for _, kind := range []string{"memory", "disk"} {
		t.Run(kind, func(t *testing.T) {
			services := memoryServices
			if kind == "disk" {
				services = diskServices
			}
			contents, infos := services(t)
			f := newFixtureOn(t, contents, infos)
			live := f.add("live")
			f.root("live", live)
			dead := f.add("dead")
			root := castore.Node{Kind: castore.KindDirectory, Digest: castore.Sum([]byte("lost")), Size: 1}
			broken := pathinfo.PathInfo{Path: pathOf("broken"), Root: root, NarHash: nixhash.Sum(nixhash.SHA256, nil), NarSize: 1}
			if err := infos.Register(context.Background(), []pathinfo.PathInfo{broken}); err != nil {
				t.Fatal(err)
			}
			link := f.root("broken", broken.Path)
			present := func(name string) bool {
				has, err := contents.Has(context.Background(), []castore.Digest{castore.Sum([]byte(name))})
				if err != nil {
					t.Fatal(err)
				}
				return has[0]
			}

			r := f.collect(Request{Action: DeleteDead})
			f.wantPaths("deleted", r.Paths, dead)
			f.wantValid(live, broken.Path)
			if r.BytesFreed != 0 || !present("dead") || !present("live") {
				t.Fatalf("contents were dropped: %+v", r)
			}
			for _, want := range []string{"path '" + f.full(broken.Path) + "' is damaged", root.Digest.String(), "no space was freed"} {
				if !strings.Contains(f.messages(), want) {
					t.Errorf("no message says %q:\n%s", want, f.messages())
				}
			}
			if strings.Contains(f.messages(), f.full(live)+"' is damaged") {
				t.Errorf("a sound path is called damaged:\n%s", f.messages())
			}

			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
			r = f.collect(Request{Action: DeleteDead})
			f.wantPaths("deleted", r.Paths, broken.Path)
			if present("dead") || !present("live") {
				t.Fatal("the wrong contents are there")
			}
		})
	}
}
