package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	cmemory "github.com/tvixd/tvixd/castore/memory"
	pmemory "github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

type batchPath struct {
	path storepath.Path
	dump []byte
	refs []storepath.Path
}

// closure is n paths of several sizes, each with a reference to the one before.
func closure(t testing.TB, n int) []batchPath {
	paths := make([]batchPath, n)
	for i := range paths {
		size := i % 200 * 37
		if i%50 == 7 {
			size = 1<<20 + i // not buffered
		}
		paths[i].path = path(fmt.Sprintf("p%d", i))
		paths[i].dump = file(t, strings.Repeat(string(rune('a'+i%26)), size))
		if i > 0 {
			paths[i].refs = []storepath.Path{paths[i-1].path}
		}
	}
	return paths
}

// stream is the NARs of paths, one after another.
func stream(paths []batchPath) *bufio.Reader {
	var readers []io.Reader
	for _, p := range paths {
		readers = append(readers, bytes.NewReader(p.dump))
	}
	return bufio.NewReader(io.MultiReader(readers...))
}

func TestBatch(t *testing.T) {
	s := newStore(t)
	paths := closure(t, 2300)
	addNAR(t, s, paths[0].path, paths[0].dump)
	addNAR(t, s, paths[1].path, paths[1].dump, paths[1].refs...)
	// One path twice.
	paths = append(paths, paths[5], paths[2200])
	var added int
	s.Listen(store.Listener{Added: func(p []storepath.Path) { added += len(p) }})
	r := stream(paths)
	b := s.Batch(t.Context())
	for _, p := range paths {
		if err := b.AddNAR(t.Context(), claim(p.path, p.dump, p.refs...), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("something is left of the stream, error %v", err)
	}
	if added != 2298 {
		t.Errorf("the listener was told of %d paths", added)
	}
	for _, p := range paths {
		checkNAR(t, s, p.path, p.dump)
	}
	if len(s.TempRoots()) > 0 {
		t.Error("a lease is left")
	}
	if err := b.AddNAR(t.Context(), claim(path("late"), file(t, "")), stream(nil)); err == nil {
		t.Error("a batch that has ended takes more")
	}
}

func TestBatchBad(t *testing.T) {
	const bad = 30
	changes := map[string]struct {
		change func(p *batchPath, claimed *[]byte)
		want   string
	}{
		"hash":        {func(p *batchPath, claimed *[]byte) { *claimed = append([]byte("x"), (*claimed)[1:]...) }, "hash mismatch importing path"},
		"claims less": {func(p *batchPath, claimed *[]byte) { *claimed = (*claimed)[8:] }, "size mismatch importing path"},
		"claims more": {func(p *batchPath, claimed *[]byte) { *claimed = append(*claimed, "12345678"...) }, "hash mismatch importing path"},
		"reference":   {func(p *batchPath, _ *[]byte) { p.refs = []storepath.Path{path("missing")} }, "is not valid"},
		"NAR":         {func(p *batchPath, _ *[]byte) { p.dump[30] ^= 1 }, "NAR: "},
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			paths := closure(t, 60)
			claimed := bytes.Clone(paths[bad].dump)
			c.change(&paths[bad], &claimed)
			r := stream(paths)
			b := s.Batch(t.Context())
			var err error
			for i, p := range paths {
				info := claim(p.path, p.dump, p.refs...)
				if i == bad {
					info = claim(p.path, claimed, p.refs...)
				}
				if err = b.AddNAR(t.Context(), info, r); err != nil {
					break
				}
			}
			if cerr := b.Commit(); err == nil {
				err = cerr
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			for _, p := range paths[bad:] {
				if isValid(t, s, p.path) {
					t.Errorf("path %s is valid", p.path)
				}
			}
			checkWhole(t, s)
			if len(s.TempRoots()) > 0 {
				t.Error("a lease is left")
			}
		})
	}
}

func TestBatchVanishingReader(t *testing.T) {
	gone := errors.New("client has gone")
	s := newStore(t)
	paths := closure(t, 20)
	r := bufio.NewReader(io.MultiReader(stream(paths[:10]), bytes.NewReader(paths[10].dump[:50]), iotest.ErrReader(gone)))
	b := s.Batch(t.Context())
	var err error
	for _, p := range paths {
		if err = b.AddNAR(t.Context(), claim(p.path, p.dump, p.refs...), r); err != nil {
			break
		}
	}
	if !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
	b.Close()
	b.Close()
	if isValid(t, s, paths[10].path) {
		t.Error("path is valid")
	}
	if len(s.TempRoots()) > 0 {
		t.Error("a lease is left")
	}
}

func TestBatchFullDisk(t *testing.T) {
	full := errors.New("no space left on device")
	s := store.New(store.Options{
		Castore:  &brokenCastore{Store: cmemory.New(), sync: func() error { return full }},
		PathInfo: pmemory.New(),
	})
	paths := closure(t, 2500)
	r := stream(paths)
	b := s.Batch(t.Context())
	var err error
	for _, p := range paths {
		if err = b.AddNAR(t.Context(), claim(p.path, p.dump, p.refs...), r); err != nil {
			break
		}
	}
	if !errors.Is(err, full) {
		t.Errorf("AddNAR: %v", err)
	}
	if err := b.Commit(); !errors.Is(err, full) {
		t.Errorf("Commit: %v", err)
	}
	valid, err := s.PathInfo().Paths(t.Context())
	if err != nil || len(valid) > 0 {
		t.Errorf("valid: %v, error %v", valid, err)
	}
}
