package castore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// sample uses every field.
var sample = &Directory{Entries: []Entry{
	{"bin", Node{Kind: KindDirectory, Digest: Sum([]byte("bin")), Size: 300}},
	{"empty", Node{Kind: KindDirectory, Digest: EmptyDigest}},
	{"file", Node{Kind: KindFile, Digest: Sum([]byte("file")), Size: math.MaxUint64}},
	{"link", Node{Kind: KindSymlink, Target: "../file"}},
	{"run", Node{Kind: KindFile, Digest: Sum([]byte("run")), Size: 1, Executable: true}},
	{"zero", Node{Kind: KindFile, Digest: EmptyDigest}},
}}

// TestEncodeGolden pins the encoding, byte for byte.
func TestEncodeGolden(t *testing.T) {
	want := "" +
		"0a2a" + "0a0362696e" + "1220" + Sum([]byte("bin")).Hex() + "18ac02" +
		"0a29" + "0a05656d707479" + "1220" + EmptyDigest.Hex() +
		"1233" + "0a0466696c65" + "1220" + Sum([]byte("file")).Hex() + "18ffffffffffffffffff01" +
		"122b" + "0a0372756e" + "1220" + Sum([]byte("run")).Hex() + "1801" + "2001" +
		"1228" + "0a047a65726f" + "1220" + EmptyDigest.Hex() +
		"1a0f" + "0a046c696e6b" + "12072e2e2f66696c65"
	if got := hex.EncodeToString(sample.Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The same messages, as protobuf's own reader takes them apart.
	for b := sample.Encode(); len(b) > 0; {
		n := protowire.ConsumeFieldValue(1, protowire.BytesType, b[1:])
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[1+n:]
	}
}

func TestNodeEncoding(t *testing.T) {
	for _, e := range sample.Entries {
		b := MarshalNode(e.Node)
		n, err := UnmarshalNode(b)
		if err != nil || n != e.Node {
			t.Errorf("%s: got %+v, %v", e.Name, n, err)
		}
		for i := range b {
			if _, err := UnmarshalNode(b[:i]); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s cut to %d bytes: %v", e.Name, i, err)
			}
		}
		if _, err := UnmarshalNode(append(b, b...)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s twice: %v", e.Name, err)
		}
	}
	named := (&Directory{Entries: sample.Entries[:1]}).Encode()
	if _, err := UnmarshalNode(named); !errors.Is(err, ErrInvalid) {
		t.Errorf("a node with a name: %v", err)
	}
}

// TestDecodeRefuses has encodings that a lenient reader would take.
func TestDecodeRefuses(t *testing.T) {
	dg := EmptyDigest.Hex()
	entry := func(tag, body string) string {
		return tag + fmt.Sprintf("%02x", len(body)/2) + body
	}
	file := func(name string) string { return entry("12", "0a01"+name+"1220"+dg) }
	tests := []struct{ name, hex string }{
		{"unknown field of the directory", file("61") + "2200"},
		{"field of type varint", "1001"},
		{"field number 0", "0200"},
		{"overlong tag", "9200" + file("61")[2:]},
		{"overlong length", "12a500" + file("61")[4:]},
		{"length past the end", "12ff01" + file("61")[4:]},
		{"huge length", "12ffffffffffffffffff01"},
		{"varint of eleven bytes", "12ffffffffffffffffffff01"},
		{"varint over 64 bits", "12ffffffffffffffffff02"},
		{"lists out of order", file("61") + entry("0a", "0a01"+"62"+"1220"+dg)},
		{"names out of order", file("62") + file("61")},
		{"name twice", file("61") + file("61")},
		{"name twice in two lists", entry("0a", "0a0161"+"1220"+dg) + file("61")},
		{"no name", entry("12", "1220"+dg)},
		{"empty name", entry("12", "0a00"+"1220"+dg)},
		{"bad name", file("2f")},
		{"no digest", entry("12", "0a0161")},
		{"short digest", entry("12", "0a0161"+"12020042")},
		{"long digest", entry("12", "0a0161"+"1221"+dg+"00")},
		{"empty digest field", entry("12", "0a0161"+"1200")},
		{"fields out of order", entry("12", "1220"+dg+"0a0161")},
		{"field twice", entry("12", "0a0161"+"1220"+dg+"1220"+dg)},
		{"size of zero", entry("12", "0a0161"+"1220"+dg+"1800")},
		{"overlong size", entry("12", "0a0161"+"1220"+dg+"188100")},
		{"size as bytes", entry("12", "0a0161"+"1220"+dg+"1a0101")},
		{"executable of zero", entry("12", "0a0161"+"1220"+dg+"2000")},
		{"executable of two", entry("12", "0a0161"+"1220"+dg+"2002")},
		{"executable directory", entry("0a", "0a0161"+"1220"+dg+"2001")},
		{"unknown field of an entry", entry("12", "0a0161"+"1220"+dg+"2801")},
		{"symlink without target", entry("1a", "0a0161")},
		{"symlink with empty target", entry("1a", "0a0161"+"1200")},
		{"symlink with size", entry("1a", "0a0161"+"120178"+"1801")},
		{"sizes overflow", entry("0a", "0a0161"+"1220"+dg+"18ffffffffffffffffff01")},
	}
	for _, test := range tests {
		b, err := hex.DecodeString(test.hex)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if dir, err := DecodeDirectory(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %+v, %v", test.name, dir, err)
		}
	}
	ok, _ := hex.DecodeString(file("61"))
	if _, err := DecodeDirectory(ok); err != nil {
		t.Errorf("the building block of the tests: %v", err)
	}
}

func TestDecodeTruncated(t *testing.T) {
	b := sample.Encode()
	for i := range b {
		dir, err := DecodeDirectory(b[:i])
		if err == nil && !bytes.Equal(dir.Encode(), b[:i]) {
			t.Errorf("%d bytes decode as another directory", i)
		}
	}
}

func FuzzDecodeDirectory(f *testing.F) {
	f.Add(sample.Encode())
	f.Add([]byte{})
	f.Add((&Directory{Entries: sample.Entries[:1]}).Encode())
	f.Add((&Directory{Entries: sample.Entries[3:4]}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, err := DecodeDirectory(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error without ErrInvalid: %v", err)
			}
			return
		}
		if err := dir.Validate(); err != nil {
			t.Fatalf("decoded but invalid: %v", err)
		}
		if !bytes.Equal(dir.Encode(), b) {
			t.Fatal("accepted what is not canonical")
		}
	})
}

func FuzzUnmarshalNode(f *testing.F) {
	for _, e := range sample.Entries {
		f.Add(MarshalNode(e.Node))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := UnmarshalNode(b)
		if err == nil && !bytes.Equal(MarshalNode(n), b) {
			t.Fatal("accepted what is not canonical")
		}
	})
}

func FuzzParseDigest(f *testing.F) {
	f.Add(EmptyDigest.String())
	f.Add(EmptyDigest.Hex())
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDigest(s)
		if err == nil && s != d.String() && strings.ToLower(s) != d.Hex() {
			t.Fatalf("%q is accepted as %v", s, d)
		}
	})
}

func benchDirectory(n int) *Directory {
	dir := new(Directory)
	for i := range n {
		dir.Entries = append(dir.Entries, Entry{fmt.Sprintf("lib%06d.so", i),
			Node{Kind: NodeKind(1 + i%2), Digest: Sum(fmt.Append(nil, i)), Size: uint64(i)}})
	}
	return dir
}

func BenchmarkEncodeDirectory(b *testing.B) {
	for _, n := range []int{10, 1000} {
		dir := benchDirectory(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dir.Encode()
			}
		})
	}
}

func BenchmarkDecodeDirectory(b *testing.B) {
	for _, n := range []int{10, 1000} {
		enc := benchDirectory(n).Encode()
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(enc)))
			for b.Loop() {
				if _, err := DecodeDirectory(enc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
