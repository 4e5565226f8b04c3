package nar

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	gonar "github.com/nix-community/go-nix/pkg/nar"
)

// FuzzReader checks that what is read writes the same bytes again, that
// nothing else is accepted, and that go-nix reads it the same way.
func FuzzReader(f *testing.F) {
	f.Add(encodeSample()[:2000])
	f.Add(archive(file("abc")))
	f.Add(archive(tokens("(", "type", "regular", "executable", "", "contents", "12345678", ")")))
	f.Add(archive(link("/nix/store")))
	f.Add(archive(dir()))
	f.Add(archive(dir(entry("a", dir(entry("b", link("c")))), entry("b", file("")))))
	f.Add(archive(dir(entry("b", file("")), entry("a", file("")))))
	f.Add(deep(5))
	f.Add(tokens(magic, "(", "type", "regular", "contents", ^uint64(7)))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, err := readAll(NewReader(bufio.NewReaderSize(bytes.NewReader(data), 64)))
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return
		}
		var b bytes.Buffer
		if err := writeAll(NewWriter(&b), events, 1000); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if !bytes.HasPrefix(data, b.Bytes()) {
			t.Fatal("what was read is written differently")
		}
		compareWithGoNix(t, b.Bytes(), events)
	})
}

func compareWithGoNix(t *testing.T, data []byte, events []event) {
	t.Helper()
	for _, e := range events {
		if e.Name == ")" {
			return // it takes the name for a token
		}
	}
	r, err := gonar.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, e := range events {
		if e.Kind == EndDirectory {
			continue
		}
		h, err := r.Next()
		if err != nil {
			t.Fatalf("go-nix: %v", err)
		}
		if h.Type.String() != e.Kind.String() || h.Executable != e.Executable || uint64(h.Size) != e.Size || h.LinkTarget != e.Target {
			t.Fatalf("go-nix: %+v, here %+v", h, e.Header)
		}
		contents, err := io.ReadAll(r)
		if err != nil || e.Kind == Regular && string(contents) != e.contents {
			t.Fatalf("go-nix reads other contents: %v", err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("go-nix goes on: %v", err)
	}
}
