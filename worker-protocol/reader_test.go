package workerprotocol

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tvixd/tvixd/storepath"
)

// TestClaimsCostNothing checks that memory follows the bytes that arrive, not those announced.
func TestClaimsCostNothing(t *testing.T) {
	for name, data := range map[string][]byte{
		"string": wire(15<<20, "x"),
		"list":   wire(8_000_000, "x"),
		"frame":  wire(uint64(1)<<31, "x"),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := NewReader(bytes.NewReader(data), Limits{})
		var err error
		switch name {
		case "string":
			r.Text("string")
			err = r.Err()
		case "list":
			var paths []storepath.Path
			(&coder{Protocol: v1(38), dir: storepath.DefaultDir, r: r}).paths("paths", &paths)
			err = r.Err()
		case "frame":
			_, err = io.Copy(io.Discard, NewFramedReader(r))
		}
		runtime.ReadMemStats(&after)
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), name) && name != "list" {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
			t.Errorf("%s: %d bytes were allocated for %d", name, got, len(data))
		}
	}
}

func TestLimits(t *testing.T) {
	limits := Limits{String: 100, Message: 300, Frame: 50}
	long := strings.Repeat("x", 100)
	for name, c := range map[string]struct {
		data []byte
		read func(*Reader)
		err  string
	}{
		"string":        {wire(long), func(r *Reader) { r.String("name") }, ""},
		"long string":   {wire(long + "x"), func(r *Reader) { r.String("name") }, "read name: a string of 101 bytes is longer than the limit of 100"},
		"message":       {wire(long, long, long, ""), func(r *Reader) { r.String("a"); r.String("b"); r.String("c") }, ""},
		"large message": {wire(long, long, long, "x"), func(r *Reader) { r.String("a"); r.String("b"); r.String("c"); r.String("d") }, "read d: the message is larger than the limit of 300 bytes"},
		"strings":       {wire(3, "", "", ""), func(r *Reader) { r.Strings("names") }, ""},
		"many strings":  {wire(38), func(r *Reader) { r.Strings("names") }, "read names: a list of 38 entries is larger than a message may be"},
		"frame":         {wire(51), func(r *Reader) { NewFramedReader(r).Drain() }, "read frame: its length of 51 bytes is over the limit of 50"},
		"number":        {wire(uint64(1) << 32), func(r *Reader) { r.Uint32("job count") }, "read job count: 4294967296 does not fit in 32 bits"},
	} {
		r := NewReader(bytes.NewReader(c.data), limits)
		c.read(r)
		if err := r.Err(); (err == nil) != (c.err == "") || err != nil && (!strings.HasPrefix(err.Error(), c.err) || !errors.Is(err, ErrProtocol)) {
			t.Errorf("%s: got %v, want %q", name, err, c.err)
		}
	}
}

func TestStringsOfAllSizes(t *testing.T) {
	for n := range 40 {
		for _, n := range []int{n, readBufferSize - 20 + n, 3*readBufferSize + n} {
			want := strings.Repeat("x", n)
			r := NewReader(iotest.HalfReader(bytes.NewReader(wire(want, 7))), Limits{})
			if got := r.Text("string"); got != want || r.Uint64("number") != 7 || r.Err() != nil {
				t.Fatalf("%d bytes: got %d, %v", n, len(got), r.Err())
			}
		}
	}
}

func TestNestingIsLimited(t *testing.T) {
	deep := func(n int) error {
		data := bytes.Repeat(wire(1), n)
		data = append(data, wire(0, "/nix/store/"+drvFoo.Base())...)
		data = append(data, bytes.Repeat(wire("out"), n)...)
		data = append(data, wire("out")...)
		return ReadMessage(NewReader(bytes.NewReader(data), Limits{}), Protocol{MaxVersion, AllFeatures}, storepath.DefaultDir, &SubmitOutputRequest{})
	}
	if err := deep(maxDynamicDepth); err != nil {
		t.Error(err)
	}
	if err := deep(1_000_000); !errors.Is(err, ErrProtocol) {
		t.Errorf("a million deep: %v", err)
	}
}
