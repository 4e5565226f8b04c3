package fuse

import (
	"testing"

	"github.com/tvixd/tvixd/fuse/fusetest"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"default", Options{}},
		{"as the daemon mounts", Options{ListRoot: true, AllowOther: true, DistinctDirectories: true, DataDir: "/"}},
		{"xattr", Options{Xattr: true}},
		{"tiny caches", Options{DirectoryCacheBytes: 1, OpenBlobs: 1}},
		{"on packs", Options{Castore: packStore(t), ListRoot: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mountFixture(t, c.o)
			fusetest.Run(t, fusetest.Mount{
				Dir:                 m.dir,
				ListRoot:            c.o.ListRoot,
				Xattr:               c.o.Xattr,
				DistinctDirectories: c.o.DistinctDirectories,
			})
		})
	}
}
