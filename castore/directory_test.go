package castore

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

// dummy is the digest of the nodes in the tables below.
var dummy Digest

func dirNode(name string, size uint64) Entry {
	return Entry{name, Node{Kind: KindDirectory, Digest: dummy, Size: size}}
}

func fileNode(name string, size uint64) Entry {
	return Entry{name, Node{Kind: KindFile, Digest: dummy, Size: size}}
}

func symlink(name, target string) Entry {
	return Entry{name, Node{Kind: KindSymlink, Target: target}}
}

func TestDirectorySize(t *testing.T) {
	tests := []struct {
		name    string
		entries []Entry
		want    uint64
	}{
		{"empty", nil, 0},
		{"empty directory", []Entry{dirNode("foo", 0)}, 1},
		{"directory of four", []Entry{dirNode("foo", 4)}, 5},
		{"file", []Entry{fileNode("foo", 42)}, 1},
		{"symlink", []Entry{symlink("foo", "bar")}, 1},
		{"all", []Entry{dirNode("a", 4), dirNode("b", 1), fileNode("c", 42), symlink("d", "x")}, 9},
		{"largest", []Entry{dirNode("a", math.MaxUint64-1)}, math.MaxUint64},
		{"overflow", []Entry{dirNode("a", math.MaxUint64)}, math.MaxUint64},
	}
	for _, test := range tests {
		if got := (&Directory{test.entries}).Size(); got != test.want {
			t.Errorf("%s: Size() = %d, want %d", test.name, got, test.want)
		}
	}
}

func TestEmptyDigest(t *testing.T) {
	const want = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	if got := new(Directory).Digest(); got.Hex() != want || got != EmptyDigest {
		t.Errorf("digest of the empty directory is %v", got.Hex())
	}
}

func TestDirectoryValidate(t *testing.T) {
	tests := []struct {
		name    string
		entries []Entry
		ok      bool
	}{
		{"empty", nil, true},
		{"sorted", []Entry{dirNode("a", 42), dirNode("b", 42)}, true},
		{"sorted over kinds", []Entry{symlink("a", "foo"), dirNode("b", 42), fileNode("c", 42)}, true},
		{"empty name", []Entry{dirNode("", 42)}, false},
		{"dot", []Entry{dirNode(".", 42)}, false},
		{"dot dot", []Entry{fileNode("..", 42)}, false},
		{"NUL", []Entry{symlink("\x00", "foo")}, false},
		{"slash", []Entry{symlink("foo/bar", "foo")}, false},
		{"three dots", []Entry{symlink("...", "foo")}, true},
		{"name of 255", []Entry{symlink(strings.Repeat("x", 255), "foo")}, true},
		{"name of 256", []Entry{symlink(strings.Repeat("x", 256), "foo")}, false},
		{"name of any bytes", []Entry{symlink("\xff\n ", "foo")}, true},
		{"not sorted", []Entry{dirNode("b", 42), dirNode("a", 42)}, false},
		{"twice", []Entry{dirNode("a", 42), dirNode("a", 42)}, false},
		{"twice in two kinds", []Entry{dirNode("a", 42), fileNode("a", 42)}, false},
		{"empty target", []Entry{symlink("a", "")}, false},
		{"NUL in target", []Entry{symlink("a", "x\x00")}, false},
		{"target of 4095", []Entry{symlink("a", strings.Repeat("x", 4095))}, true},
		{"target of 4096", []Entry{symlink("a", strings.Repeat("x", 4096))}, false},
		{"largest size", []Entry{dirNode("a", math.MaxUint64-1)}, true},
		{"overflow by itself", []Entry{dirNode("a", math.MaxUint64)}, false},
		{"overflow of a sum", []Entry{dirNode("a", 1<<63), dirNode("b", 1<<63)}, false},
		{"file sizes do not add up", []Entry{fileNode("a", math.MaxUint64), fileNode("b", math.MaxUint64)}, true},
		{"no kind", []Entry{{"a", Node{}}}, false},
		{"unknown kind", []Entry{{"a", Node{Kind: 4}}}, false},
		{"executable directory", []Entry{{"a", Node{Kind: KindDirectory, Executable: true}}}, false},
		{"directory with target", []Entry{{"a", Node{Kind: KindDirectory, Target: "x"}}}, false},
		{"file with target", []Entry{{"a", Node{Kind: KindFile, Target: "x"}}}, false},
		{"symlink with size", []Entry{{"a", Node{Kind: KindSymlink, Target: "x", Size: 1}}}, false},
		{"symlink with digest", []Entry{{"a", Node{Kind: KindSymlink, Target: "x", Digest: Digest{1}}}}, false},
		{"executable symlink", []Entry{{"a", Node{Kind: KindSymlink, Target: "x", Executable: true}}}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := &Directory{test.entries}
			err := dir.Validate()
			if !test.ok {
				if !errors.Is(err, ErrInvalid) {
					t.Fatalf("Validate: got %v, want ErrInvalid", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("Validate: %v", err)
			}
			back, err := DecodeDirectory(dir.Encode())
			if err != nil || !slices.Equal(back.Entries, dir.Entries) {
				t.Fatalf("decoded as %+v, %v", back, err)
			}
		})
	}
}

// TestDirectoryOrder has entries whose order over all kinds differs from that in
// the encoding.
func TestDirectoryOrder(t *testing.T) {
	var dir Directory
	for i, kind := range "sfddfsfdsfsd" {
		name := string(rune('a' + i))
		switch kind {
		case 's':
			dir.Entries = append(dir.Entries, symlink(name, "x"))
		case 'f':
			dir.Entries = append(dir.Entries, fileNode(name, uint64(i)))
		case 'd':
			dir.Entries = append(dir.Entries, dirNode(name, uint64(i)))
		}
	}
	back, err := DecodeDirectory(dir.Encode())
	if err != nil || !slices.Equal(back.Entries, dir.Entries) {
		t.Fatalf("decoded as %+v, %v", back, err)
	}
	for _, e := range dir.Entries {
		if n, ok := back.Lookup(e.Name); !ok || n != e.Node {
			t.Errorf("Lookup(%q) = %+v, %v", e.Name, n, ok)
		}
	}
	for _, name := range []string{"", "A", "aa", "m", "z"} {
		if n, ok := back.Lookup(name); ok || !n.IsZero() {
			t.Errorf("Lookup(%q) = %+v, %v", name, n, ok)
		}
	}
}

func TestDigestText(t *testing.T) {
	d := Sum([]byte("abc"))
	for _, s := range []string{d.String(), d.Hex(), strings.ToUpper(d.Hex())} {
		if got, err := ParseDigest(s); err != nil || got != d {
			t.Errorf("ParseDigest(%q) = %v, %v", s, got, err)
		}
	}
	if want := "blake3-ZDezrDhGUTP/tjt1JzqNtUjFWEZdedsD/TWcbNW9nYU="; d.String() != want {
		t.Errorf("String() = %q, want %q", d.String(), want)
	}
	for _, s := range []string{"", "blake3-", "sha256-" + d.String()[7:], d.String()[7:], d.Hex()[1:], d.Hex() + "0",
		d.Hex()[1:] + "g", d.String() + "=", d.String()[:len(d.String())-2] + "V=", "blake3-" + d.Hex()} {
		if _, err := ParseDigest(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseDigest(%q): got %v, want ErrInvalid", s, err)
		}
	}
	if _, err := DigestFromBytes(make([]byte, 31)); !errors.Is(err, ErrInvalid) {
		t.Errorf("DigestFromBytes: %v", err)
	}
}

func TestErrors(t *testing.T) {
	d := Sum(nil)
	cause := errors.New("cause")
	tests := []struct {
		err  error
		is   []error
		text string
	}{
		{NotFound("blob", d), []error{ErrNotFound}, "blob " + d.String() + ": not found"},
		{Corrupt("directory", d, nil), []error{ErrCorrupt}, "directory " + d.String() + ": stored data is corrupt"},
		{Corrupt("blob", d, cause), []error{ErrCorrupt, cause}, "blob " + d.String() + ": stored data is corrupt: cause"},
	}
	for _, test := range tests {
		for _, is := range test.is {
			if !errors.Is(test.err, is) {
				t.Errorf("%v is not %v", test.err, is)
			}
		}
		if test.err.Error() != test.text {
			t.Errorf("text is %q, want %q", test.err, test.text)
		}
	}
}
