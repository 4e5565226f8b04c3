package build

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestAppendJSON(t *testing.T) {
	for in, want := range map[string]string{
		`1.5`: `1.5`, `-2.50`: `-2.5`, `0.0`: `0.0`, `-0.0`: `-0.0`, `1e10`: `10000000000.0`,
		`123456789012345.0`: `123456789012345.0`, `1e14`: `100000000000000.0`, `1e15`: `1e+15`,
		`0.0001`: `0.0001`, `0.00001`: `1e-05`, `1e100`: `1e+100`, `-2.5e-7`: `-2.5e-07`,
		`18446744073709551615`: `18446744073709551615`, `18446744073709551616`: `1.8446744073709552e+19`,
		`-9223372036854775808`: `-9223372036854775808`, `-0`: `0`,
		`{"b":1,"a":[true,false,null,{}],"":[]}`: `{"":[],"a":[true,false,null,{}],"b":1}`,
		`"\u00e9\/\u007f\u0001\b\f\n\r\t\"\\"`:   "\"é/\x7f\\u0001\\b\\f\\n\\r\\t\\\"\\\\\"",
	} {
		dec := json.NewDecoder(bytes.NewReader([]byte(in)))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if got := string(appendJSON(nil, v)); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}

func TestShellAttrs(t *testing.T) {
	dec := json.NewDecoder(bytes.NewReader([]byte(`{"f":1.5,"whole":2.0,"bad-name":1,"l":[1,[2]],"s":{"a b":"c'd"},"n":null,` +
		`"t":true,"u":false,"nested":{"x":{}},"list":[1,"a",null,true]}`)))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	want := "declare -a list=(1 'a' '' 1 )\ndeclare n=''\ndeclare -A s=(['a b']='c'\\''d' )\ndeclare t=1\ndeclare u=\ndeclare whole=2\n"
	if got := shellAttrs(v); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestParseSandboxPath(t *testing.T) {
	for in, want := range map[string]SandboxPath{
		"/a":        {"/a", "/a", false},
		"/a?":       {"/a", "/a", true},
		"/bin/sh=b": {"/bin/sh", "b", false},
		"/x=/y=z?":  {"/x", "/y=z", true},
	} {
		if got := ParseSandboxPath(in); got != want {
			t.Errorf("%s: %+v", in, got)
		}
	}
}

// What is written is JSON again, and means the same.
func FuzzAttributes(f *testing.F) {
	f.Add(`{"a":1,"b":[1.5,"x",null,true],"c":{"d":"e\u0000\n"}}`)
	f.Add(`{"exportReferencesGraph":{"g":["/nix/store/x"]},"outputChecks":{"out":{"maxSize":1}}}`)
	f.Add(`[1e400]`)
	f.Fuzz(func(t *testing.T, in string) {
		dec := json.NewDecoder(bytes.NewReader([]byte(in)))
		dec.UseNumber()
		var v map[string]any
		if dec.Decode(&v) != nil {
			return
		}
		shellAttrs(v)
		out := appendJSON(nil, v)
		var again map[string]any
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%q became %q: %v", in, out, err)
		}
		if len(again) != len(v) {
			t.Errorf("%q became %q", in, out)
		}
	})
}

// Whatever a builder writes, lines stay short and nothing is lost.
func FuzzBuildLog(f *testing.F) {
	f.Add([]byte("a\nb\rc\n@nix {\"action\":\"setPhase\",\"phase\":\"x\"}\n"), 3)
	f.Add([]byte(`@nix {"action":"start","id":1,"type":101,"fields":[1,"a",-1]}`), 1)
	f.Add(bytes.Repeat([]byte("x"), 3*maxLogLine), 1000)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		sink := new(countSink)
		l := &buildLog{sink: sink, tailSize: 3, file: new(logFile)}
		if step <= 0 {
			step = 1
		}
		for b := data; len(b) > 0; {
			n := min(step, len(b))
			if !l.write(b[:n]) {
				t.Fatal("a limit where there is none")
			}
			b = b[n:]
		}
		l.end()
		if sink.longest > maxLogLine || len(l.tail) > 3 || l.size != uint64(len(data)) || len(l.line) != 0 {
			t.Errorf("longest %d, tail %d, size %d, rest %d", sink.longest, len(l.tail), l.size, len(l.line))
		}
	})
}
