package nar

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func writeAll(w *Writer, events []event, piece int) error {
	for _, e := range events {
		if err := w.Header(e.Header); err != nil {
			return err
		}
		for rest := e.contents; rest != ""; {
			n := min(piece, len(rest))
			if _, err := w.Write([]byte(rest[:n])); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return w.Close()
}

func TestWrite(t *testing.T) {
	for _, piece := range []int{1, 7, 1 << 20} {
		var b bytes.Buffer
		if err := writeAll(NewWriter(&b), sample, piece); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), encodeSample()) {
			t.Errorf("in pieces of %d: wrong bytes", piece)
		}
	}
	for name, c := range map[string]struct {
		e    event
		want []byte
	}{
		"file":       {event{Header{Kind: Regular, Size: 2}, "ab"}, archive(file("ab"))},
		"empty file": {event{Header{Kind: Regular}, ""}, archive(file(""))},
		"link":       {event{Header{Kind: Symlink, Target: "x"}, ""}, archive(link("x"))},
	} {
		var b bytes.Buffer
		if err := writeAll(NewWriter(&b), []event{c.e}, 1); err != nil || !bytes.Equal(b.Bytes(), c.want) {
			t.Errorf("%s: %v, %q", name, err, b.Bytes())
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	root := event{Header{Kind: Directory}, ""}
	end := event{Header{Kind: EndDirectory}, ""}
	a := event{Header{Name: "a", Kind: Regular}, ""}
	for name, events := range map[string][]event{
		"nothing":           {},
		"open folder":       {root},
		"named root":        {a},
		"end first":         {end},
		"two roots":         {root, end, root},
		"end twice":         {root, end, end},
		"after a file":      {{Header{Kind: Regular}, ""}, end},
		"no kind":           {{Header{}, ""}},
		"unknown kind":      {{Header{Kind: 77}, ""}},
		"contents missing":  {root, {Header{Name: "a", Kind: Regular, Size: 2}, "1"}, end},
		"last file missing": {{Header{Kind: Regular, Size: 2}, "1"}},
		"contents too long": {{Header{Kind: Regular, Size: 2}, "123"}},
		"contents of a dir": {{Header{Kind: Directory}, "1"}},
		"huge contents":     {{Header{Kind: Regular, Size: 1 << 63}, ""}},
		"same name":         {root, a, a, end},
		"unsorted":          {root, {Header{Name: "b", Kind: Directory}, ""}, end, a, end},
		"empty name":        {root, {Header{Kind: Regular}, ""}, end},
		"slash":             {root, {Header{Name: "a/b", Kind: Regular}, ""}, end},
		"dots":              {root, {Header{Name: "..", Kind: Regular}, ""}, end},
		"NUL":               {root, {Header{Name: "\x00", Kind: Regular}, ""}, end},
		"long name":         {root, {Header{Name: strings.Repeat("n", 256), Kind: Regular}, ""}, end},
		"empty target":      {{Header{Kind: Symlink}, ""}},
		"NUL in target":     {{Header{Kind: Symlink, Target: "\x00"}, ""}},
		"long target":       {{Header{Kind: Symlink, Target: strings.Repeat("t", 4096)}, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWriter(io.Discard)
			err := writeAll(w, events, 100)
			if !errors.Is(err, ErrMalformed) || !strings.HasPrefix(err.Error(), "NAR: /") {
				t.Fatal(err)
			}
			if w.Close() != err || w.Header(root.Header) != err {
				t.Error("the error is not final")
			}
			if _, again := w.Write([]byte("x")); again != err {
				t.Error("the error is not final for Write")
			}
		})
	}
}

func TestWriterDepth(t *testing.T) {
	w := NewWriter(io.Discard)
	h := Header{Kind: Directory}
	for depth := range MaxDepth {
		if err := w.Header(h); err != nil {
			t.Fatalf("depth %d: %v", depth, err)
		}
		h.Name = "d"
	}
	if err := w.Header(h); !errors.Is(err, ErrMalformed) {
		t.Errorf("depth %d: %v", MaxDepth, err)
	}
}

// failAfter fails when n bytes are through.
type failAfter struct{ n int }

var errFull = errors.New("disk full")

func (f *failAfter) Write(p []byte) (int, error) {
	if len(p) > f.n {
		return f.n, errFull
	}
	f.n -= len(p)
	return len(p), nil
}

func TestWriterFails(t *testing.T) {
	events := []event{sample[0], sample[1], sample[2], sample[len(sample)-1]}
	var whole bytes.Buffer
	if err := writeAll(NewWriter(&whole), events, 2); err != nil {
		t.Fatal(err)
	}
	for n := range whole.Len() {
		if err := writeAll(NewWriter(&failAfter{n}), events, 2); !errors.Is(err, errFull) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

func TestWritingAllocatesNothing(t *testing.T) {
	dst := bufio.NewWriterSize(io.Discard, 64<<10)
	w := NewWriter(dst)
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("file-%04d", i)
	}
	contents := make([]byte, 100)
	allocs := testing.AllocsPerRun(5, func() {
		w.Reset(dst)
		if err := writeFiles(w, names, contents); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 5 {
		t.Errorf("%v allocations for 1000 files", allocs)
	}
}

// writeFiles writes a folder of files with the same contents.
func writeFiles(w *Writer, names []string, contents []byte) error {
	if err := w.Header(Header{Kind: Directory}); err != nil {
		return err
	}
	for i, name := range names {
		h := Header{Name: name, Kind: Regular, Executable: i%2 == 0, Size: uint64(len(contents))}
		if err := w.Header(h); err != nil {
			return err
		}
		if _, err := w.Write(contents); err != nil {
			return err
		}
	}
	if err := w.Header(Header{Kind: EndDirectory}); err != nil {
		return err
	}
	return w.Close()
}

func manyFiles(n, size int) []byte {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("file-%07d", i)
	}
	var b bytes.Buffer
	if err := writeFiles(NewWriter(&b), names, make([]byte, size)); err != nil {
		panic(err)
	}
	return b.Bytes()
}
