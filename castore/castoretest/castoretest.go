// Package castoretest is the conformance suite of castores: tests and benchmarks
// that every implementation of [castore.Store] must pass.
package castoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

// Suite describes an implementation to its tests.
type Suite struct {
	// New returns an empty store, which the test closes when it ends.
	New func(tb testing.TB) castore.Store
	// Reopen closes a store and opens it again. It is nil if nothing survives
	// that.
	Reopen func(tb testing.TB, s castore.Store) castore.Store
	// Damage changes the stored bytes of a blob or directory behind the back of
	// the store. It is nil if that cannot be done.
	Damage func(tb testing.TB, s castore.Store, d castore.Digest)
}

// Run runs all tests, each on a store of its own.
func Run(t *testing.T, suite Suite) {
	tests := []struct {
		name string
		run  func(t *testing.T, suite Suite)
	}{
		{"Blobs", testBlobs},
		{"WriteSizes", testWriteSizes},
		{"Reads", testReads},
		{"Abort", testAbort},
		{"NotFound", testNotFound},
		{"Idempotent", testIdempotent},
		{"ConcurrentPuts", testConcurrentPuts},
		{"ReadBeforeSync", testReadBeforeSync},
		{"Cancel", testCancel},
		{"Directories", testDirectories},
		{"LargeDirectory", testLargeDirectory},
		{"InvalidDirectory", testInvalidDirectory},
		{"BlobIsNoDirectory", testBlobIsNoDirectory},
		{"SharedDigest", testSharedDigest},
		{"ConcurrentSync", testConcurrentSync},
		{"Stats", testStats},
		{"Verify", testVerify},
		{"Closed", testClosed},
		{"Sweep", testSweep},
		{"SweepAll", testSweepAll},
		{"SweepChunks", testSweepChunks},
		{"SweepSharedDigest", testSweepSharedDigest},
		{"SweepMissing", testSweepMissing},
		{"SweepDamaged", testSweepDamaged},
		{"SweepHeldMissing", testSweepHeldMissing},
		{"SweepRootsError", testSweepRootsError},
		{"Hold", testHold},
		{"HoldFound", testHoldFound},
		{"HoldDirectory", testHoldDirectory},
		{"ReleaseDuringSweep", testReleaseDuringSweep},
		{"PutAfterSweep", testPutAfterSweep},
		{"SweepUnderLoad", testSweepUnderLoad},
		{"SweepUnderReaders", testSweepUnderReaders},
		{"Reopen", testReopen},
		{"Damage", testDamage},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, suite) })
	}
}

// open returns a new store that is closed with the test.
func open(tb testing.TB, suite Suite) castore.Store {
	s := suite.New(tb)
	tb.Cleanup(func() { s.Close() })
	return s
}

// random returns n bytes that depend on the seed and do not compress.
func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	fill(b, seed)
	return b
}

func fill(b []byte, seed uint64) {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	rand.NewChaCha8(key).Read(b)
}

// text returns n bytes that depend on the seed and compress well.
func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := []string{"store", "path", "derivation ", "builder\n", "output", "\x00\x00\x00\x00", "libc.so.6"}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
		if r.IntN(8) == 0 {
			b = fmt.Append(b, r.Uint32())
		}
	}
	return b[:n]
}

func put(tb testing.TB, s castore.Store, data []byte) castore.Digest {
	tb.Helper()
	d, err := s.PutBlob(context.Background(), data)
	if err != nil {
		tb.Fatalf("PutBlob: %v", err)
	}
	if want := castore.Sum(data); d != want {
		tb.Fatalf("PutBlob returned %v, want %v", d, want)
	}
	return d
}

func putDir(tb testing.TB, s castore.Store, entries ...castore.Entry) castore.Node {
	tb.Helper()
	dir := &castore.Directory{Entries: entries}
	d, err := s.PutDirectory(context.Background(), dir)
	if err != nil {
		tb.Fatalf("PutDirectory: %v", err)
	}
	if want := dir.Digest(); d != want {
		tb.Fatalf("PutDirectory returned %v, want %v", d, want)
	}
	return dir.Node()
}

func file(name string, data []byte) castore.Entry {
	return castore.Entry{Name: name, Node: castore.Node{
		Kind: castore.KindFile, Digest: castore.Sum(data), Size: uint64(len(data))}}
}

func dirEntry(name string, n castore.Node) castore.Entry { return castore.Entry{Name: name, Node: n} }

// read returns the whole contents of a blob.
func read(s castore.Store, d castore.Digest) ([]byte, error) {
	b, err := s.Open(context.Background(), d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	var buf bytes.Buffer
	n, err := b.WriteTo(&buf)
	if err != nil {
		return nil, err
	}
	if uint64(n) != b.Size() || n != int64(buf.Len()) {
		return nil, fmt.Errorf("WriteTo wrote %d bytes and returned %d; Size is %d", buf.Len(), n, b.Size())
	}
	return buf.Bytes(), nil
}

func wantBlob(tb testing.TB, s castore.Store, data []byte) {
	tb.Helper()
	got, err := read(s, castore.Sum(data))
	if err != nil {
		tb.Fatalf("read blob of %d bytes: %v", len(data), err)
	}
	if !bytes.Equal(got, data) {
		tb.Fatalf("blob of %d bytes reads as other bytes", len(data))
	}
}

func wantGone(tb testing.TB, s castore.Store, d castore.Digest) {
	tb.Helper()
	if _, err := read(s, d); !errors.Is(err, castore.ErrNotFound) {
		tb.Fatalf("read of a swept blob: got %v, want ErrNotFound", err)
	}
	if has(tb, s, d) {
		tb.Fatal("Has is true for a swept blob")
	}
}

func has(tb testing.TB, s castore.Store, d castore.Digest) bool {
	tb.Helper()
	got, err := s.Has(context.Background(), []castore.Digest{d})
	if err != nil || len(got) != 1 {
		tb.Fatalf("Has: %v, %v", got, err)
	}
	return got[0]
}

func sync(tb testing.TB, s castore.Store) {
	tb.Helper()
	if err := s.Sync(context.Background()); err != nil {
		tb.Fatalf("Sync: %v", err)
	}
}

func sweep(tb testing.TB, s castore.Store, roots ...castore.Node) castore.SweepResult {
	tb.Helper()
	res, err := s.Sweep(context.Background(), castore.LiveNodes(roots), castore.SweepOptions{})
	if err != nil {
		tb.Fatalf("Sweep: %v", err)
	}
	return res
}

func verify(tb testing.TB, s castore.Store) []castore.Problem {
	tb.Helper()
	var problems []castore.Problem
	err := s.Verify(context.Background(), func(p castore.Problem) { problems = append(problems, p) })
	if err != nil {
		tb.Fatalf("Verify: %v", err)
	}
	return problems
}

// wantTree reads everything below a node.
func wantTree(tb testing.TB, s castore.Store, n castore.Node) {
	tb.Helper()
	if err := walk(s, n); err != nil {
		tb.Fatal(err)
	}
}

func walk(s castore.Store, n castore.Node) error {
	switch n.Kind {
	case castore.KindFile:
		data, err := read(s, n.Digest)
		if err != nil {
			return err
		}
		if castore.Sum(data) != n.Digest || uint64(len(data)) != n.Size {
			return fmt.Errorf("file %v reads as other bytes", n.Digest)
		}
	case castore.KindDirectory:
		dir, err := s.GetDirectory(context.Background(), n.Digest)
		if err != nil {
			return err
		}
		for _, e := range dir.Entries {
			if err := walk(s, e.Node); err != nil {
				return fmt.Errorf("%s: %w", e.Name, err)
			}
		}
	}
	return nil
}
