package workerprotocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// vectorsDir has data files of the Nix project, which are not part of this one.
const vectorsDir = "../../shared/vectors"

// A vector decodes a file, compares what it finds with the JSON beside it, and encodes it again.
type vector struct {
	proto Protocol
	// code moves one entry of the file; json is its JSON value, as the value itself tells it.
	code func(c *coder, v any)
	make func() any
	json func(v any) any
}

// entry makes a vector of entries of type T.
func entry[T any](p Protocol, code func(*coder, *T), render func(*T) any) vector {
	return vector{
		proto: p,
		code:  func(c *coder, v any) { code(c, v.(*T)) },
		make:  func() any { return new(T) },
		json:  func(v any) any { return render(v.(*T)) },
	}
}

func v1(minor uint8) Protocol { return Protocol{Version: MakeVersion(1, minor)} }

var withPath = Protocol{Version: MaxVersion, Features: FeatureRealisationWithPath}

func jsonPath(p storepath.Path) any {
	if p.IsZero() {
		return nil
	}
	return p.Base()
}

func jsonPaths(paths []storepath.Path) any {
	out := []any{}
	for _, p := range paths {
		out = append(out, p.Base())
	}
	return out
}

func jsonCA(ca storepath.ContentAddress) any {
	if ca.IsZero() {
		return nil
	}
	return map[string]any{"hash": ca.Hash.SRI(), "method": ca.Method.String()}
}

// jsonSignatures is the structured form of newer Nix, jsonPlainSignatures the older one.
func jsonSignatures(signatures []string) any {
	out := []any{}
	for _, s := range signatures {
		key, sig, _ := strings.Cut(s, ":")
		out = append(out, map[string]any{"keyName": key, "sig": sig})
	}
	return out
}

func jsonPlainSignatures(signatures []string) any {
	out := []any{}
	for _, s := range signatures {
		out = append(out, s)
	}
	return out
}

func jsonRealisation(r *Realisation, signatures func([]string) any) any {
	deps := map[string]any{}
	for id, p := range r.Dependencies {
		deps[id.String()] = p.Base()
	}
	return map[string]any{
		"dependentRealisations": deps, "id": r.ID.String(), "outPath": r.OutPath.Base(),
		"signatures": signatures(r.Signatures),
	}
}

func jsonUnkeyedRealisation(r *Realisation) any {
	return map[string]any{"outPath": r.OutPath.Base(), "signatures": jsonSignatures(r.Signatures)}
}

func jsonDrvOutput(o *DrvOutput) any {
	if o.Drv.IsZero() {
		return o.String()
	}
	return map[string]any{"drvPath": o.Drv.Base(), "outputName": o.Output}
}

func jsonDerivedPath(d *DerivedPath) any {
	if !d.Built() {
		return d.Path.Base()
	}
	outputs := []any{}
	for _, o := range d.Outputs {
		outputs = append(outputs, o)
	}
	if d.All {
		outputs = []any{"*"}
	}
	return map[string]any{"drvPath": d.Path.Base(), "outputs": outputs}
}

func unixTime(t time.Time) any {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func jsonPathInfo(i *PathInfo) map[string]any {
	return map[string]any{
		"ca": jsonCA(i.CA), "deriver": jsonPath(i.Deriver), "narHash": i.NarHash.SRI(), "narSize": i.NarSize,
		"references": jsonPaths(i.References), "registrationTime": unixTime(i.RegistrationTime),
		"signatures": jsonSignatures(i.Signatures), "storeDir": "/nix/store", "ultimate": i.Ultimate, "version": 3,
	}
}

func jsonValidPathInfo(i *ValidPathInfo) any {
	m := jsonPathInfo(&i.PathInfo)
	m["path"] = i.Path.Base()
	return m
}

// jsonBuildResult renders outputs in the form with or without a hash.
func jsonBuildResult(output func(*Realisation) any) func(*BuildResult) any {
	return func(b *BuildResult) any {
		m := map[string]any{
			"startTime": unixTime(b.Start), "stopTime": unixTime(b.Stop), "timesBuilt": b.TimesBuilt,
			"status": b.Status.String(), "success": b.Status.Success(),
		}
		if b.Status.Success() {
			outputs := map[string]any{}
			for name, r := range b.BuiltOutputs {
				outputs[name] = output(&r)
			}
			m["builtOutputs"] = outputs
		} else {
			m["errorMsg"], m["isNonDeterministic"] = b.ErrorMsg, b.NonDeterministic
		}
		if b.CPUUser != nil {
			m["cpuUser"] = b.CPUUser.Microseconds()
		}
		if b.CPUSystem != nil {
			m["cpuSystem"] = b.CPUSystem.Microseconds()
		}
		return m
	}
}

func jsonHashedOutput(r *Realisation) any { return jsonRealisation(r, jsonSignatures) }

func codeNested(c *coder, v *[][]string) {
	list(c, "lists", v, func(c *coder, s *[]string) { c.stringList("strings", s) })
}

// vectors says how each file of the folders is to be read. handshakeVectors are read elsewhere.
var vectors = map[string]vector{
	"string": entry(v1(38), func(c *coder, s *string) { c.string("string", s) }, func(s *string) any { return *s }),
	"store-path": entry(v1(38), func(c *coder, p *storepath.Path) { c.path("path", p) },
		func(p *storepath.Path) any { return jsonPath(*p) }),
	"optional-store-path": entry(v1(38), func(c *coder, p *storepath.Path) { c.optionalPath("path", p) },
		func(p *storepath.Path) any { return jsonPath(*p) }),
	"content-address": entry(v1(38), func(c *coder, ca *storepath.ContentAddress) { c.contentAddress("ca", ca) },
		func(ca *storepath.ContentAddress) any { return jsonCA(*ca) }),
	"optional-content-address": entry(v1(38), func(c *coder, ca *storepath.ContentAddress) { c.contentAddress("ca", ca) },
		func(ca *storepath.ContentAddress) any { return jsonCA(*ca) }),
	"drv-output": entry(v1(38), func(c *coder, o *DrvOutput) { o.code(c) }, jsonDrvOutput),
	"drv-output-realisation-with-path-not-hash": entry(withPath, func(c *coder, o *DrvOutput) { o.code(c) }, jsonDrvOutput),
	"realisation":           entry(v1(38), func(c *coder, r *Realisation) { r.code(c) }, jsonHashedOutput),
	"realisation-with-deps": entry(v1(38), func(c *coder, r *Realisation) { r.code(c) }, func(r *Realisation) any { return jsonRealisation(r, jsonPlainSignatures) }),
	"realisation-realisation-with-path-not-hash": entry(withPath, func(c *coder, r *Realisation) { r.code(c) }, func(r *Realisation) any {
		return map[string]any{"key": jsonDrvOutput(&r.ID), "value": jsonUnkeyedRealisation(r)}
	}),
	"unkeyed-realisation-realisation-with-path-not-hash": entry(withPath, func(c *coder, r *Realisation) { r.codeUnkeyed(c) }, jsonUnkeyedRealisation),
	"derived-path-1.29":                           entry(v1(29), func(c *coder, d *DerivedPath) { d.code(c) }, jsonDerivedPath),
	"derived-path-1.30":                           entry(v1(30), func(c *coder, d *DerivedPath) { d.code(c) }, jsonDerivedPath),
	"build-mode":                                  entry(v1(38), func(c *coder, m *BuildMode) { enum(c, "mode", m, buildModes) }, func(m *BuildMode) any { return *m }),
	"build-result-1.27":                           entry(v1(27), func(c *coder, b *BuildResult) { b.code(c) }, jsonBuildResult(jsonHashedOutput)),
	"build-result-1.28":                           entry(v1(28), func(c *coder, b *BuildResult) { b.code(c) }, jsonBuildResult(jsonHashedOutput)),
	"build-result-1.29":                           entry(v1(29), func(c *coder, b *BuildResult) { b.code(c) }, jsonBuildResult(jsonHashedOutput)),
	"build-result-1.29-compat":                    entry(v1(29), func(c *coder, b *BuildResult) { b.code(c) }, jsonBuildResult(jsonUnkeyedRealisation)),
	"build-result-1.37":                           entry(v1(37), func(c *coder, b *BuildResult) { b.code(c) }, jsonBuildResult(jsonHashedOutput)),
	"build-result-realisation-with-path-not-hash": entry(withPath, func(c *coder, b *BuildResult) { b.code(c) }, jsonBuildResult(jsonUnkeyedRealisation)),
	"keyed-build-result-1.29": entry(v1(29), func(c *coder, k *KeyedBuildResult) { k.code(c) }, func(k *KeyedBuildResult) any {
		m := jsonBuildResult(jsonHashedOutput)(&k.BuildResult).(map[string]any)
		m["path"] = jsonDerivedPath(&k.Path)
		return m
	}),
	"unkeyed-valid-path-info-1.15": entry(v1(15), func(c *coder, i *PathInfo) { i.code(c) }, func(i *PathInfo) any { return jsonPathInfo(i) }),
	"valid-path-info-1.15":         entry(v1(15), func(c *coder, i *ValidPathInfo) { i.code(c) }, jsonValidPathInfo),
	"valid-path-info-1.16":         entry(v1(16), func(c *coder, i *ValidPathInfo) { i.code(c) }, jsonValidPathInfo),
	"optional-trusted-flag": entry(v1(38), func(c *coder, t *Trust) { enum(c, "trust", t, trusts) }, func(t *Trust) any {
		return map[Trust]any{TrustUnknown: nil, Trusted: true, NotTrusted: false}[*t]
	}),
}

// lists are the vectors whose entries differ in type: three lists of strings and a list of lists.
var lists = []string{"set", "vector"}

var handshakeVectors = map[string]bool{
	"client-handshake-info_1_30": true, "client-handshake-info_1_33": true,
	"client-handshake-info_1_35": true, "handshake-to-client": true,
}

func TestVectors(t *testing.T) {
	for _, folder := range []string{"worker-protocol", "common-protocol"} {
		files, err := filepath.Glob(filepath.Join(vectorsDir, folder, "*.bin"))
		if err != nil || len(files) == 0 {
			t.Skipf("no vectors in %s", filepath.Join(vectorsDir, folder))
		}
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".bin")
			t.Run(folder+"/"+name, func(t *testing.T) {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				v, known := vectors[name]
				switch {
				case known:
					checkVector(t, v, data, readJSON(t, file))
				case slices.Contains(lists, name):
					checkLists(t, data, readJSON(t, file))
				case handshakeVectors[name]:
					checkHandshake(t, name, data)
				default:
					t.Fatal("the test does not know how to read this file")
				}
			})
		}
	}
}

func readJSON(t *testing.T, file string) any {
	t.Helper()
	data, err := os.ReadFile(strings.TrimSuffix(file, ".bin") + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// normal is v as it comes out of JSON.
func normal(t *testing.T, v any) any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func checkVector(t *testing.T, v vector, data []byte, want any) {
	entries, ok := want.([]any)
	if !ok {
		entries = []any{want}
	}
	r := NewReader(bytes.NewReader(data), Limits{})
	var encoded bytes.Buffer
	w := NewWriter(&encoded)
	for i, want := range entries {
		e := v.make()
		v.code(&coder{Protocol: v.proto, dir: storepath.DefaultDir, r: r}, e)
		if r.err != nil || r.bad != nil {
			t.Fatalf("entry %d: %v, %v", i, r.err, r.bad)
		}
		if got := normal(t, v.json(e)); !reflect.DeepEqual(got, want) {
			t.Errorf("entry %d:\ngot  %v\nwant %v", i, got, want)
		}
		v.code(&coder{Protocol: v.proto, dir: storepath.DefaultDir, w: w}, e)
	}
	checkSame(t, r, w, &encoded, data)
}

// checkSame checks that all was read, and that it was written as it was.
func checkSame(t *testing.T, r *Reader, w *Writer, encoded *bytes.Buffer, data []byte) {
	t.Helper()
	if _, err := r.src.Peek(1); err != io.EOF {
		t.Errorf("bytes are left over")
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encoded.Bytes(), data) {
		t.Errorf("encoded again:\ngot  %q\nwant %q", encoded.Bytes(), data)
	}
}

func checkLists(t *testing.T, data []byte, want any) {
	r := NewReader(bytes.NewReader(data), Limits{})
	var encoded bytes.Buffer
	w := NewWriter(&encoded)
	read := &coder{Protocol: v1(38), r: r}
	write := &coder{Protocol: v1(38), w: w}
	got := []any{}
	for range 3 {
		var s []string
		read.stringList("strings", &s)
		got = append(got, s)
		write.stringList("strings", &s)
	}
	var nested [][]string
	codeNested(read, &nested)
	codeNested(write, &nested)
	got = append(got, nested)
	if r.err != nil {
		t.Fatal(r.err)
	}
	if got := normal(t, got); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	checkSame(t, r, w, &encoded, data)
}

func checkHandshake(t *testing.T, name string, data []byte) {
	r := NewReader(bytes.NewReader(data), Limits{})
	var encoded bytes.Buffer
	w := NewWriter(&encoded)
	var minor uint8
	if name == "handshake-to-client" {
		if magic := r.Uint64("magic"); magic != serverMagic {
			t.Errorf("magic %#x", magic)
		}
		v := versionFromWire(r.Uint64("version"))
		if v != MakeVersion(1, 10) {
			t.Errorf("version %s", v)
		}
		w.Uint64(serverMagic)
		w.Uint64(uint64(v))
	} else if _, err := fmt.Sscanf(name, "client-handshake-info_1_%d", &minor); err != nil {
		t.Fatal(err)
	}
	want := map[uint8][]HandshakeInfo{
		30: {{}},
		33: {{DaemonVersion: "foo"}, {DaemonVersion: "bar"}},
		35: {{DaemonVersion: "foo", Trust: NotTrusted}, {DaemonVersion: "bar", Trust: Trusted}},
	}[minor]
	for i, want := range want {
		var info HandshakeInfo
		info.code(&coder{Protocol: v1(minor), r: r})
		if info != want {
			t.Errorf("entry %d: got %+v, want %+v", i, info, want)
		}
		info.code(&coder{Protocol: v1(minor), w: w})
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
	checkSame(t, r, w, &encoded, data)
}

func TestVectorTableHasNoStrays(t *testing.T) {
	if _, err := os.Stat(vectorsDir); err != nil {
		t.Skipf("no vectors: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(vectors)) {
		found := false
		for _, folder := range []string{"worker-protocol", "common-protocol"} {
			_, err := os.Stat(filepath.Join(vectorsDir, folder, name+".bin"))
			found = found || err == nil
		}
		if !found {
			t.Errorf("no file for %s", name)
		}
	}
}

func TestOpTable(t *testing.T) {
	ops := Ops()
	if !sort.SliceIsSorted(ops, func(i, j int) bool { return ops[i].Op < ops[j].Op }) {
		t.Error("the table is not in order")
	}
	for _, op := range ops {
		served := op.Status == StatusCalled || op.Status == StatusOld || op.Status == StatusInSandbox
		if op.Op.Served() != served || (op.NewResponse != nil) != served {
			t.Errorf("%s: status %d and messages disagree", op.Name, op.Status)
		}
		if op.Op.String() != op.Name {
			t.Errorf("%s is called %s", op.Name, op.Op)
		}
	}
	if info := Op(999).Info(); info.Status != StatusUnknown || Op(999).String() != "operation 999" {
		t.Errorf("an unknown operation is %+v", info)
	}
}

func mustPath(base string) storepath.Path {
	p, err := storepath.ParseBase(base)
	if err != nil {
		panic(err)
	}
	return p
}

func mustHash(s string) nixhash.Hash {
	h, err := nixhash.Parse(s, nixhash.SHA256)
	if err != nil {
		panic(err)
	}
	return h
}
