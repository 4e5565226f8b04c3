package fusetest

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Mount says where the fixture is mounted and with which options.
type Mount struct {
	// Dir is the mount point.
	Dir string
	// ListRoot, Xattr and DistinctDirectories are those of the mount.
	ListRoot, Xattr, DistinctDirectories bool
}

// Run checks a mount of the [Fixture]. It makes plain system calls only, so it
// may run in the process that serves the mount.
func Run(t *testing.T, m Mount) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(mounted{t, m}) })
	}
}

var cases = []struct {
	name string
	run  func(mounted)
}{
	{"RootStat", mounted.rootStat},
	{"RootListing", mounted.rootListing},
	{"FileAtRoot", mounted.fileAtRoot},
	{"LargeFile", mounted.largeFile},
	{"LargeFileAtRandom", mounted.largeFileAtRandom},
	{"DirectRead", mounted.directRead},
	{"Symlink", mounted.symlink},
	{"DanglingSymlink", mounted.danglingSymlink},
	{"ThroughSymlink", mounted.throughSymlink},
	{"DirectoryStat", mounted.directoryStat},
	{"NestedReadWithoutStat", mounted.nestedRead},
	{"DeepLookup", mounted.deepLookup},
	{"Listing", mounted.listing},
	{"NestedListingWithoutStat", mounted.nestedListing},
	{"WideListing", mounted.wideListing},
	{"WideListingFromAnywhere", mounted.wideSeek},
	{"Attributes", mounted.attributes},
	{"EqualDirectories", mounted.equalDirectories},
	{"EqualFiles", mounted.equalFiles},
	{"EqualSymlinks", mounted.equalSymlinks},
	{"ExecutableIsAnotherFile", mounted.executableDiffers},
	{"InodesOfListing", mounted.inodesOfListing},
	{"WrongNames", mounted.wrongNames},
	{"OddNames", mounted.oddNames},
	{"WritesRefused", mounted.writesRefused},
	{"MissingDirectory", mounted.missingDirectory},
	{"MissingBlob", mounted.missingBlob},
	{"WrongSize", mounted.wrongSize},
	{"NotADirectory", mounted.notADirectory},
	{"Access", mounted.access},
	{"Xattr", mounted.xattr},
	{"Statfs", mounted.statfs},
}

// mounted is a mount under a test.
type mounted struct {
	*testing.T
	Mount
}

func (m mounted) path(elem ...string) string {
	return filepath.Join(append([]string{m.Dir}, elem...)...)
}

func (m mounted) lstat(elem ...string) syscall.Stat_t {
	m.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(m.path(elem...), &st); err != nil {
		m.Fatalf("lstat %s: %v", m.path(elem...), err)
	}
	return st
}

func (m mounted) read(elem ...string) string {
	m.Helper()
	b, err := os.ReadFile(m.path(elem...))
	if err != nil {
		m.Fatal(err)
	}
	return string(b)
}

// names lists a directory in the order in which the kernel gives it.
func (m mounted) names(elem ...string) []string {
	m.Helper()
	f, err := os.Open(m.path(elem...))
	if err != nil {
		m.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	if err != nil {
		m.Fatal(err)
	}
	return names
}

func (m mounted) wantErr(what string, err error, want syscall.Errno) {
	m.Helper()
	if !errors.Is(err, want) {
		m.Errorf("%s: error %v, want %v", what, err, error(want))
	}
}
