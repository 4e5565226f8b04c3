package store_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// TestKeep checks that what is added, or was there already, passes from the add's lease to the
// caller's, and that what fails does not.
func TestKeep(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	dump := file(t, "contents")
	for name, add := range map[string]func(o store.AddOptions, good bool) (storepath.Path, error){
		"AddNAR": func(o store.AddOptions, good bool) (storepath.Path, error) {
			info := claim(path("nar"), dump)
			if !good {
				info = claim(path("bad-nar"), dump)
				info.NarHash = nixhash.Sum(nixhash.SHA256, []byte("other"))
			}
			return info.Path, s.AddNAR(ctx, info, bytes.NewReader(dump), o)
		},
		"AddText": func(o store.AddOptions, good bool) (storepath.Path, error) {
			var refs []storepath.Path
			if !good {
				refs = append(refs, path("missing"))
			}
			return s.AddText(ctx, "text", []byte("text"), refs, o)
		},
		"AddCA": func(o store.AddOptions, good bool) (storepath.Path, error) {
			var refs []storepath.Path
			if !good {
				refs = append(refs, path("missing"))
			}
			info, err := s.AddCA(ctx, "ca", storepath.Text, nixhash.SHA256, refs, strings.NewReader("x"), o)
			if err != nil {
				return storepath.Path{}, err
			}
			return info.Path, nil
		},
		"Batch": func(o store.AddOptions, good bool) (storepath.Path, error) {
			b := s.Batch(ctx)
			b.AddOptions = o
			defer b.Close()
			info := claim(path("batch"), dump)
			if !good {
				info = claim(path("bad-batch"), dump, path("missing"))
			}
			if err := b.AddNAR(ctx, info, bytes.NewReader(dump)); err != nil {
				return storepath.Path{}, err
			}
			return info.Path, b.Commit()
		},
	} {
		for _, what := range []string{"new", "valid", "repaired"} {
			lease := s.NewLease()
			p, err := add(store.AddOptions{Keep: lease, Repair: what == "repaired"}, true)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := s.TempRoots(); !slices.Equal(got, []storepath.Path{p}) || !lease.Has(p) {
				t.Errorf("%s of a path that is %s leaves leases on %v", name, what, got)
			}
			lease.Release()
		}
		lease := s.NewLease()
		if _, err := add(store.AddOptions{Keep: lease}, false); err == nil {
			t.Errorf("%s: a bad path was added", name)
		}
		if got := s.TempRoots(); len(got) > 0 {
			t.Errorf("%s: what was not added is kept: %v", name, got)
		}
		lease.Release()
	}
}

// TestBatchDone checks that a batch tells which paths it needs no memory for.
func TestBatchDone(t *testing.T) {
	s := newStore(t)
	paths := closure(t, 2300)
	r := stream(append(paths[:1:1], paths...))
	b := s.Batch(t.Context())
	defer b.Close()
	addNAR(t, s, paths[0].path, paths[0].dump)
	// The first one is known.
	if err := b.AddNAR(t.Context(), claim(paths[0].path, paths[0].dump), r); err != nil || b.Done() != 1 {
		t.Fatalf("%v, %d paths are done, want 1", err, b.Done())
	}
	for i, p := range paths {
		if err := b.AddNAR(t.Context(), claim(p.path, p.dump, p.refs...), r); err != nil {
			t.Fatal(err)
		}
		if open := i + 2 - b.Done(); open < 0 || open > 2002 {
			t.Fatalf("%d of %d paths are done", b.Done(), i+2)
		}
	}
	if b.Done() < 1000 {
		t.Errorf("%d paths are done", b.Done())
	}
}
