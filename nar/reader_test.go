package nar

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// event is a header and the contents that follow it.
type event struct {
	Header
	contents string
}

// tokens encodes an archive out of strings; a uint64 is a bare length.
func tokens(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		switch part := part.(type) {
		case string:
			b = appendString(b, part)
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, part)
		case []byte:
			b = append(b, part...)
		}
	}
	return b
}

func file(contents string) []byte {
	return tokens("(", "type", "regular", "contents", contents, ")")
}

func entry(name string, node []byte) []byte {
	return tokens("entry", "(", "name", name, "node", node, ")")
}

func dir(entries ...[]byte) []byte {
	return tokens("(", "type", "directory", bytes.Join(entries, nil), ")")
}

func link(target string) []byte { return tokens("(", "type", "symlink", "target", target, ")") }

func archive(node []byte) []byte { return tokens(magic, node) }

func readAll(r *Reader) ([]event, error) {
	var events []event
	for {
		h, err := r.Next()
		if err == io.EOF {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		contents, err := io.ReadAll(r)
		if err != nil {
			return events, err
		}
		events = append(events, event{h, string(contents)})
	}
}

// sample has one of everything.
var sample = []event{
	{Header{Kind: Directory}, ""},
	{Header{Name: ")", Depth: 1, Kind: Regular, Size: 3}, "abc"},
	{Header{Name: "-rf", Depth: 1, Kind: Regular, Executable: true, Size: 8}, "12345678"},
	{Header{Name: "big", Depth: 1, Kind: Regular, Size: 100_000}, strings.Repeat("0123456789", 10_000)},
	{Header{Name: "bin", Depth: 1, Kind: Directory}, ""},
	{Header{Name: "a", Depth: 2, Kind: Directory}, ""},
	{Header{Depth: 2, Kind: EndDirectory}, ""},
	{Header{Name: "a.b", Depth: 2, Kind: Regular}, ""},
	{Header{Name: "sh", Depth: 2, Kind: Symlink, Target: "/bin/sh"}, ""},
	{Header{Depth: 1, Kind: EndDirectory}, ""},
	{Header{Name: "entry", Depth: 1, Kind: Symlink, Target: "("}, ""},
	{Header{Name: strings.Repeat("n", 255), Depth: 1, Kind: Symlink, Target: strings.Repeat("t", 4095)}, ""},
	{Header{Name: "\xff\xfe", Depth: 1, Kind: Regular, Executable: true, Size: 1}, "x"},
	{Header{Kind: EndDirectory}, ""},
}

// encodeSample is the archive of events, made without a Writer.
func encodeSample() []byte {
	return archive(dir(
		entry(")", file("abc")),
		entry("-rf", tokens("(", "type", "regular", "executable", "", "contents", "12345678", ")")),
		entry("big", file(sample[3].contents)),
		entry("bin", dir(entry("a", dir()), entry("a.b", file("")), entry("sh", link("/bin/sh")))),
		entry("entry", link("(")),
		entry(sample[11].Name, link(sample[11].Target)),
		entry("\xff\xfe", tokens("(", "type", "regular", "executable", "", "contents", "x", ")")),
	))
}

func equalEvents(a, b []event) error {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return fmt.Errorf("event %d of %d and %d differs", i, len(a), len(b))
		}
	}
	return nil
}

func TestRead(t *testing.T) {
	data := encodeSample()
	sources := map[string]func() io.Reader{
		"whole":     func() io.Reader { return bytes.NewReader(data) },
		"bytewise":  func() io.Reader { return iotest.OneByteReader(bytes.NewReader(data)) },
		"data+EOF":  func() io.Reader { return iotest.DataErrReader(bytes.NewReader(data)) },
		"small buf": func() io.Reader { return bufio.NewReaderSize(bytes.NewReader(data), 16) },
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			events, err := readAll(NewReader(source()))
			if err != nil {
				t.Fatal(err)
			}
			if err := equalEvents(events, sample); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSkipContents(t *testing.T) {
	r := NewReader(bytes.NewReader(encodeSample()))
	var n int
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h != sample[n].Header {
			t.Fatalf("event %d: %v", n, h)
		}
		if n%2 == 0 {
			_, _ = r.Read(make([]byte, 2))
		}
		n++
	}
	if n != len(sample) {
		t.Errorf("%d events", n)
	}
}

func TestWriteTo(t *testing.T) {
	r := NewReader(iotest.HalfReader(bytes.NewReader(encodeSample())))
	for _, want := range sample {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if n, err := r.WriteTo(&b); err != nil || b.String() != want.contents || n != int64(b.Len()) {
			t.Fatalf("%s: %d bytes, %v", r.Path(), n, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
}

func TestStopsAtTheEnd(t *testing.T) {
	for name, data := range map[string][]byte{
		"tree": encodeSample(), "file": archive(file("1234567")), "empty file": archive(file("")),
		"link": archive(link("x")), "folder": archive(dir()),
	} {
		src := bufio.NewReader(io.MultiReader(bytes.NewReader(data), strings.NewReader("tail")))
		r := NewReader(src)
		if _, err := readAll(r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if tail, err := io.ReadAll(src); err != nil || string(tail) != "tail" {
			t.Errorf("%s: %q left, %v", name, tail, err)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: Next after the end: %v", name, err)
		}
	}
}

// TestNeverWaits reads from a peer that sends no byte more than the archive.
func TestNeverWaits(t *testing.T) {
	pr, pw := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		_, err := pw.Write(encodeSample())
		sent <- err // and leaves the pipe open
	}()
	events, err := readAll(NewReader(bufio.NewReaderSize(pr, 1<<20)))
	if err != nil || len(events) != len(sample) {
		t.Errorf("%d events, %v", len(events), err)
	}
	pr.Close()
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestTruncated(t *testing.T) {
	data := archive(dir(entry("a", file("contents")), entry("b", dir(entry("c", link("t")))), entry("d", tokens("(", "type", "regular", "executable", "", "contents", "1", ")"))))
	for n := range len(data) {
		if _, err := readAll(NewReader(bytes.NewReader(data[:n]))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d of %d bytes: %v", n, len(data), err)
		}
	}
	broken := errors.New("broken line")
	for n := range len(data) {
		src := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken))
		if _, err := readAll(NewReader(src)); !errors.Is(err, broken) {
			t.Fatalf("%d of %d bytes: %v", n, len(data), err)
		}
	}
}

func deep(levels int) []byte {
	open := tokens("(", "type", "directory", "entry", "(", "name", "d", "node")
	closing := tokens(")", ")")
	return archive(bytes.Join([][]byte{bytes.Repeat(open, levels-1), file("x"), bytes.Repeat(closing, levels-1)}, nil))
}

func TestDepth(t *testing.T) {
	if events, err := readAll(NewReader(bytes.NewReader(deep(MaxDepth)))); err != nil || len(events) != 2*MaxDepth-1 {
		t.Errorf("%d levels: %d events, %v", MaxDepth, len(events), err)
	}
	for _, levels := range []int{MaxDepth + 1, 10_000} {
		if _, err := readAll(NewReader(bytes.NewReader(deep(levels)))); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "maximum depth") {
			t.Errorf("%d levels: %v", levels, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	huge := ^uint64(0)
	for name, c := range map[string]struct {
		data []byte
		text string
	}{
		"no archive":            {[]byte("hello, this is no archive at all"), "NAR: /: bad archive: input doesn't look like a Nix archive"},
		"wrong version":         {tokens("nix-archive-2", file("x")), "doesn't look like"},
		"huge magic":            {tokens(huge), "doesn't look like"},
		"no type":               {archive(tokens("(", ")")), "expected tag 'type'"},
		"unknown type":          {archive(tokens("(", "type", "fifo", ")")), "unknown file type"},
		"no parenthesis":        {archive(tokens("type", "directory", ")")), "expected tag '('"},
		"long tag":              {archive(tokens("(", "type", strings.Repeat("x", 33))), "too long"},
		"huge tag":              {archive(tokens("(", huge)), "too long"},
		"-8 tag":                {archive(tokens("(", huge-7)), "too long"},
		"no contents":           {archive(tokens("(", "type", "regular", ")")), "expected tag 'contents'"},
		"contents twice":        {archive(tokens("(", "type", "regular", "contents", "a", "contents", "b", ")")), "expected tag ')'"},
		"executable twice":      {archive(tokens("(", "type", "regular", "executable", "", "executable", "", "contents", "a", ")")), "expected tag 'contents'"},
		"executable value":      {archive(tokens("(", "type", "regular", "executable", "1", "contents", "a", ")")), "non-empty value"},
		"contents first":        {archive(tokens("(", "type", "regular", "contents", "a", "executable", "", ")")), "expected tag ')'"},
		"huge contents":         {archive(tokens("(", "type", "regular", "contents", huge)), "too long"},
		"-8 contents":           {archive(tokens("(", "type", "regular", "contents", huge-7)), "too long"},
		"dirty padding":         {archive(tokens("(", "type", "regular", "contents", uint64(1), []byte("x\x00\x00\x00\x00\x00\x00y"), ")")), "padding"},
		"dirty tag padding":     {tokens(magic, uint64(1), []byte("(xxxxxxx"), "type", "directory", ")"), "padding"},
		"dirty name padding":    {archive(tokens("(", "type", "directory", "entry", "(", "name", uint64(1), []byte("axxxxxxx"), "node", file(""), ")", ")")), "padding"},
		"link without target":   {archive(tokens("(", "type", "symlink", ")")), "expected tag 'target'"},
		"empty target":          {archive(link("")), "invalid symlink target"},
		"NUL in target":         {archive(link("a\x00b")), "invalid symlink target"},
		"long target":           {archive(link(strings.Repeat("t", 4096))), "too long"},
		"two targets":           {archive(tokens("(", "type", "symlink", "target", "a", "target", "b", ")")), "expected tag ')'"},
		"empty name":            {archive(dir(entry("", file("")))), "invalid file name"},
		"dot":                   {archive(dir(entry(".", file("")))), "invalid file name"},
		"dot dot":               {archive(dir(entry("..", file("")))), "invalid file name"},
		"slash":                 {archive(dir(entry("a/b", file("")))), "invalid file name"},
		"NUL in name":           {archive(dir(entry("a\x00", file("")))), "invalid file name"},
		"long name":             {archive(dir(entry(strings.Repeat("n", 256), file("")))), "too long"},
		"huge name":             {archive(tokens("(", "type", "directory", "entry", "(", "name", huge)), "too long"},
		"repeated name":         {archive(dir(entry("a", file("")), entry("a", file("")))), "NAR: /a: bad archive: NAR directory is not sorted"},
		"unsorted":              {archive(dir(entry("b", dir(entry("z", file("")))), entry("a", file("")))), "NAR: /a: bad archive: NAR directory is not sorted"},
		"no node":               {archive(dir(tokens("entry", "(", "name", "a", ")"))), "expected tag 'node'"},
		"no name":               {archive(dir(tokens("entry", "(", "node", file(""), ")"))), "expected tag 'name'"},
		"two nodes":             {archive(dir(tokens("entry", "(", "name", "a", "node", file(""), "node", file(""), ")"))), "expected tag ')'"},
		"node before name":      {archive(dir(tokens("entry", "(", "node", file(""), "name", "a", ")"))), "expected tag 'name'"},
		"unknown token in dir":  {archive(dir(tokens("extra", "x"))), "expected tag 'entry' or ')'"},
		"unknown token in file": {archive(tokens("(", "type", "regular", "mode", "x", "contents", "a", ")")), "expected tag 'contents'"},
		"deep inside":           {archive(dir(entry("a", dir(entry("b", link("")))))), "NAR: /a/b: bad archive"},
		"odd name in message":   {archive(dir(entry("a\nb", link("")))), `NAR: "/a\nb": bad archive`},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(append(c.data, make([]byte, 4096)...)))
			_, err := readAll(r)
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v, want %q", err, c.text)
			}
			if _, again := r.Next(); again != err {
				t.Errorf("then: %v", again)
			}
			if _, again := r.Read(make([]byte, 1)); again != err {
				t.Errorf("read: %v", again)
			}
			if _, again := r.WriteTo(io.Discard); again != err {
				t.Errorf("write: %v", again)
			}
		})
	}
}

func TestReaderReset(t *testing.T) {
	r := NewReader(bytes.NewReader(tokens(magic, "(", "type", "directory", "x")))
	if _, err := readAll(r); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	r.Reset(bytes.NewReader(encodeSample()))
	events, err := readAll(r)
	if err == nil {
		err = equalEvents(events, sample)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestReadingAllocatesLittle(t *testing.T) {
	data := manyFiles(1000, 100)
	src := bufio.NewReaderSize(nil, 64<<10)
	r := NewReader(src)
	buf := make([]byte, 4096)
	allocs := testing.AllocsPerRun(5, func() {
		src.Reset(bytes.NewReader(data))
		r.Reset(src)
		for {
			if _, err := r.Next(); err == io.EOF {
				return
			} else if err != nil {
				t.Fatal(err)
			}
			for {
				if _, err := r.Read(buf); err != nil {
					break
				}
			}
		}
	})
	// One for every name.
	if allocs > 1010 {
		t.Errorf("%v allocations for 1000 files", allocs)
	}
}
