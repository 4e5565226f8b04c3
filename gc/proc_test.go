package gc

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const prefix = "/nix/store/"

// oracle is scanPaths by a regular expression.
func oracle(data []byte, before int) []string {
	var found []string
	for _, m := range regexp.MustCompile(regexp.QuoteMeta(prefix)+`[0-9a-zA-Z+._?=-]{0,245}`).FindAllIndex(data, -1) {
		if before == anywhere || m[0] > 0 && int(data[m[0]-1]) == before {
			found = append(found, string(data[m[0]+len(prefix):m[1]]))
		}
	}
	return found
}

func scanned(t *testing.T, r io.Reader, before int) []string {
	t.Helper()
	var found []string
	if err := scanPaths(r, prefix, before, func(base string) { found = append(found, strings.Clone(base)) }); err != nil {
		t.Fatal(err)
	}
	return found
}

func checkScan(t *testing.T, data []byte) {
	t.Helper()
	for _, before := range []int{anywhere, ' '} {
		want := oracle(data, before)
		for how, r := range map[string]io.Reader{
			"at once": bytes.NewReader(data), "with the end": iotest.DataErrReader(bytes.NewReader(data)),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(data)), "by halves": iotest.HalfReader(bytes.NewReader(data)),
		} {
			if got := scanned(t, r, before); !slices.Equal(got, want) {
				t.Errorf("before=%d, %s: %.300q, wanted %.300q", before, how, got, want)
			}
		}
	}
}

func TestScanPaths(t *testing.T) {
	for _, data := range []string{
		"", prefix, prefix + "a", " " + prefix + "a b" + prefix + "c/d", "/nix/store", "/nix/stor/nix/store/x",
		" " + prefix + prefix + "x", strings.Repeat("y", 244) + " " + prefix + strings.Repeat("x", 300),
		" " + prefix + strings.Repeat("x", 245), prefix + "ü", "\x00\xff " + prefix + "a+-._?=B~",
	} {
		checkScan(t, []byte(data))
	}
	// Matches across the buffer's end, wherever it cuts them.
	for shift := range 300 {
		data := strings.Repeat("z", 64<<10-shift) + " " + prefix + "abc-d" + strings.Repeat("/e", 30<<10) + " " + prefix + "f"
		if got, want := scanned(t, strings.NewReader(data), ' '), []string{"abc-d", "f"}; !slices.Equal(got, want) {
			t.Fatalf("shifted by %d: %q", shift, got)
		}
	}
}

func FuzzScanPaths(f *testing.F) {
	f.Add([]byte(" "+prefix+"abc-d/e\n"+prefix+"x"), 1)
	f.Add([]byte(strings.Repeat(prefix, 20)), 500)
	f.Fuzz(func(t *testing.T, data []byte, times int) {
		if len(data) > 0 && times > 1 {
			data = bytes.Repeat(data, min(times, 1+(128<<10)/len(data)))
		}
		if got, want := scanned(t, bytes.NewReader(data), ' '), oracle(data, ' '); !slices.Equal(got, want) {
			t.Errorf("%.300q, wanted %.300q", got, want)
		}
	})
}
