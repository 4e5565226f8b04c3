package fusetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/tvixd/tvixd/castore"
)

// Names of the roots of the fixture.
const (
	fileName        = "00000000000000000000000000000000-test"
	linkName        = "11111111111111111111111111111111-test"
	keepName        = "22222222222222222222222222222222-test"
	complicatedName = "33333333333333333333333333333333-test"
	link2Name       = "44444444444444444444444444444444-test"
	largeName       = "55555555555555555555555555555555-test"
	executableName  = "66666666666666666666666666666666-test"
	deepName        = "77777777777777777777777777777777-deep"
	wideName        = "88888888888888888888888888888888-wide"
	oddName         = "99999999999999999999999999999999-odd"
	equalName       = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-equal"
	noDirectoryName = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-no-directory"
	noBlobName      = "cccccccccccccccccccccccccccccccc-no-blob"
	wrongSizeName   = "dddddddddddddddddddddddddddddddd-wrong-size"
)

const (
	fileContents       = "contents of a plain file\n"
	executableContents = "#!/bin/sh\necho hello\n"
	keepTarget         = "/nix/store/somewhereelse"
	wideEntries        = 4000
	largeSize          = 5<<20 + 12345
)

var deepPath = []string{"a", "b", "c", "d", "e"}

// oddNames are lawful names that programs stumble over.
var oddNames = []string{
	" ", "-rf", "...", "*", "\\", "a\nb", "a\tb", "\x01", "\xff\xfe not utf-8", "ünï", "日本",
	strings.Repeat("n", castore.MaxNameLen), ".go-fuse-epoll-hack",
}

// largeContents is what the large file of the fixture holds.
func largeContents() []byte {
	b := make([]byte, largeSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// Fixture puts the paths that [Run] checks into a castore and returns them by
// name. Two have a blob or a directory that is not in the castore.
func Fixture(ctx context.Context, store castore.Store) (map[string]castore.Node, error) {
	b := builder{ctx: ctx, store: store}
	keep := b.directory(castore.Entry{Name: ".keep", Node: b.file("", false)})
	toElsewhere := castore.Node{Kind: castore.KindSymlink, Target: keepTarget}
	deep := b.file("at the bottom\n", false)
	for i := len(deepPath) - 1; i >= 0; i-- {
		deep = b.directory(castore.Entry{Name: deepPath[i], Node: deep})
	}
	wrongSize := b.file(fileContents, false)
	wrongSize.Size += 100
	roots := map[string]castore.Node{
		fileName:        b.file(fileContents, false),
		executableName:  b.file(executableContents, true),
		largeName:       b.file(string(largeContents()), false),
		linkName:        {Kind: castore.KindSymlink, Target: fileName},
		link2Name:       toElsewhere,
		keepName:        keep,
		complicatedName: b.directory(castore.Entry{Name: ".keep", Node: b.file("", false)}, castore.Entry{Name: "aa", Node: toElsewhere}, castore.Entry{Name: "keep", Node: keep}),
		deepName:        deep,
		wideName:        b.wide(),
		oddName:         b.odd(),
		equalName: b.directory(
			castore.Entry{Name: "1", Node: keep}, castore.Entry{Name: "2", Node: keep},
			castore.Entry{Name: "plain", Node: b.file(executableContents, false)},
			castore.Entry{Name: "script", Node: b.file(executableContents, true)}),
		noDirectoryName: {Kind: castore.KindDirectory, Digest: castore.Sum([]byte("no such directory")), Size: 7},
		noBlobName:      {Kind: castore.KindFile, Digest: castore.Sum([]byte("no such blob")), Size: 12},
		wrongSizeName:   wrongSize,
	}
	return roots, b.err
}

// builder keeps the first error, so that trees can be written as expressions.
type builder struct {
	ctx   context.Context
	store castore.Store
	err   error
}

func (b *builder) file(contents string, executable bool) castore.Node {
	d, err := b.store.PutBlob(b.ctx, []byte(contents))
	b.keep(err)
	return castore.Node{Kind: castore.KindFile, Digest: d, Size: uint64(len(contents)), Executable: executable}
}

func (b *builder) directory(entries ...castore.Entry) castore.Node {
	dir := &castore.Directory{Entries: entries}
	sortEntries(dir)
	d, err := b.store.PutDirectory(b.ctx, dir)
	b.keep(err)
	return castore.Node{Kind: castore.KindDirectory, Digest: d, Size: dir.Size()}
}

func (b *builder) wide() castore.Node {
	entries := make([]castore.Entry, wideEntries)
	for i := range entries {
		entries[i] = castore.Entry{Name: wideEntry(i), Node: b.file(fmt.Sprint(i), i%2 == 1)}
	}
	return b.directory(entries...)
}

func wideEntry(i int) string { return fmt.Sprintf("entry-%05d", i) }

func (b *builder) odd() castore.Node {
	var entries []castore.Entry
	for _, name := range oddNames {
		entries = append(entries, castore.Entry{Name: name, Node: b.file("named "+name, false)})
	}
	longTarget := castore.Node{Kind: castore.KindSymlink, Target: strings.Repeat("t", castore.MaxTargetLen)}
	entries = append(entries, castore.Entry{Name: "long-target", Node: longTarget})
	return b.directory(entries...)
}

func (b *builder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}
